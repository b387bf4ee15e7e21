/*
 * What the tests of the stores share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static char folder[200];
static bool mounted;

int folder_setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "%s/pagetide-stores-XXXXXX",
                   getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

int folder_teardown(void **state)
{
    (void)state;
    const unsigned left = folder_entries();
    if (mounted)
        folder_unmount();
    if (left == 0)
        return rmdir(folder);
    print_error("%u entries are left in %s\n", left, folder);
    return -1;
}

const char *in_folder(const char *name)
{
    static char paths[16][300];
    static unsigned next;
    char *const path = paths[next++ % 16];

    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

unsigned folder_entries(void)
{
    unsigned count = 0;
    DIR *const entries = opendir(folder);

    if (entries == NULL)
        return 0;
    while (readdir(entries) != NULL)
        count++;
    closedir(entries);
    return count - 2;
}

bool folder_mount(const char *type, unsigned long flags, const char *options)
{
    static bool own_namespace;

    if (!own_namespace && (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)) {
        print_message("no mount namespace of our own: %s\n", strerror(errno));
        return false;
    }
    own_namespace = true;
    if (mount("none", folder, type, flags, options) != 0) {
        print_message("%s cannot be mounted: %s\n", type, strerror(errno));
        return false;
    }
    mounted = true;
    return true;
}

void folder_unmount(void)
{
    assert_int_equal(umount2(folder, MNT_DETACH), 0);
    mounted = false;
}

void write_file(const char *path, const void *content, size_t bytes)
{
    FILE *const file = fopen(path, "wx");

    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

struct stores *stores_good(const struct stores_options *options)
{
    struct stores *stores = NULL;
    const tide_status status = stores_create(options, &stores);

    if (status != TIDE_SUCCESS)
        fail_msg("%s: %s", tide_status_name(status), tide_last_error()->message);
    assert_non_null(stores);
    return stores;
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *const entries = opendir("/proc/self/fd");

    assert_non_null(entries);
    while (readdir(entries) != NULL)
        count++;
    closedir(entries);
    return count;
}

void assert_refused(const struct stores_options *options, tide_status status, ...)
{
    struct stores *stores = (struct stores *)(uintptr_t)1;
    const unsigned descriptors = open_descriptors();
    const tide_status got = stores_create(options, &stores);
    va_list texts;

    if (got != status)
        fail_msg("%s instead of %s: %s", tide_status_name(got), tide_status_name(status),
                 got == TIDE_SUCCESS ? "" : tide_last_error()->message);
    assert_null(stores);
    assert_int_equal(tide_last_error()->status, status);
    va_start(texts, status);
    for (const char *text; (text = va_arg(texts, const char *)) != NULL;)
        if (strstr(tide_last_error()->message, text) == NULL)
            fail_msg("no \"%s\" in \"%s\"", text, tide_last_error()->message);
    va_end(texts);
    assert_int_equal(open_descriptors(), descriptors);
}
