/*
 * What the topology tests share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct topology *topology_good(const char *synthetic, const char *xml)
{
    struct topology *topology = NULL;
    const tide_status status = topology_create(synthetic, xml, &topology);

    if (status != TIDE_SUCCESS)
        fail_msg("%s: %s", tide_status_name(status), tide_last_error()->message);
    assert_non_null(topology);
    return topology;
}

char *expander_variant(const char *text, const char *replacement)
{
    static char content[16384];
    char *path = NULL;
    FILE *file = fopen(EXPANDER_XML, "r");

    assert_non_null(file);
    const size_t length = fread(content, 1, sizeof content - 1, file);
    content[length] = '\0';
    fclose(file);

    char *found = strstr(content, text);
    assert_non_null(found);
    assert_true(asprintf(&path, "%s/pagetide-topology-XXXXXX", getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp") >
                0);
    const int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    file = fdopen(descriptor, "w");
    assert_non_null(file);
    assert_true(fprintf(file, "%.*s%s%s", (int)(found - content), content, replacement, found + strlen(text)) > 0);
    assert_int_equal(fclose(file), 0);
    return path;
}

struct topology *topology_as_machine(const char *xml)
{
    /* hwloc's own switches, which it reads when nobody told it what to load. */
    setenv("HWLOC_XMLFILE", xml, 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    struct topology *topology = topology_good(NULL, NULL);
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_THISSYSTEM");
    return topology;
}
