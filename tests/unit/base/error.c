/*
 * The last error of a thread and the names of statuses.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void an_error_is_kept_with_all_its_parts(void **state)
{
    (void)state;
    assert_int_equal(error_set(TIDE_DISK_FULL, 28, 0x123456789AB, "%s needs %lu pages", "page.sys", 77ul),
                     TIDE_DISK_FULL);
    const tide_error *error = tide_last_error();
    assert_int_equal(error->status, TIDE_DISK_FULL);
    assert_int_equal(error->io_error, 28);
    assert_int_equal(error->address, 0x123456789AB);
    assert_string_equal(error->message, "page.sys needs 77 pages");
    /* The next one replaces it, whole. */
    (void)error_set(TIDE_TIMEOUT, 0, 0, "x");
    assert_ptr_equal(tide_last_error(), error);
    assert_int_equal(error->status, TIDE_TIMEOUT);
    assert_int_equal(error->io_error, 0);
    assert_int_equal(error->address, 0);
    assert_string_equal(error->message, "x");
}

static void a_long_message_is_cut(void **state)
{
    enum { ROOM = sizeof((tide_error *)0)->message };
    char text[2 * ROOM];

    (void)state;
    for (unsigned length = ROOM - 2; length <= ROOM + 1; length++) {
        memset(text, 'a', length);
        text[length] = 0;
        (void)error_set(TIDE_IO_ERROR, 5, 9, "%s", text);
        const size_t expected = length < ROOM ? length : ROOM - 1;
        assert_int_equal(strlen(tide_last_error()->message), expected);
        assert_memory_equal(tide_last_error()->message, text, expected);
        assert_int_equal(tide_last_error()->status, TIDE_IO_ERROR);
        assert_int_equal(tide_last_error()->io_error, 5);
        assert_int_equal(tide_last_error()->address, 9);
    }
}

static void *other_thread(void *context)
{
    tide_error *seen = context;

    seen[0] = *tide_last_error();
    (void)error_set(TIDE_NO_MEMORY, 12, 1, "of the other thread");
    seen[1] = *tide_last_error();
    return NULL;
}

static void each_thread_has_its_own(void **state)
{
    tide_error seen[2];
    pthread_t thread;

    (void)state;
    (void)error_set(TIDE_IO_ERROR, 5, 2, "of this thread");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, seen), 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen[0].status, TIDE_SUCCESS);
    assert_string_equal(seen[0].message, "");
    assert_int_equal(seen[1].status, TIDE_NO_MEMORY);
    assert_string_equal(seen[1].message, "of the other thread");
    assert_int_equal(tide_last_error()->status, TIDE_IO_ERROR);
    assert_string_equal(tide_last_error()->message, "of this thread");
}

/* Every status that the public header defines: a new one without a name fails here. */
static void every_status_has_its_name(void **state)
{
    FILE *header = fopen(TEST_SOURCE_DIR "/../../../include/pagetide/status.h", "r");
    char line[256], name[64], value[64];
    unsigned found = 0;

    (void)state;
    assert_non_null(header);
    while (fgets(line, sizeof line, header) != NULL) {
        unsigned code;

        if (sscanf(line, "#define %63s TIDE_STATUS_CODE(%63[^)])", name, value) != 2 ||
            strncmp(name, "TIDE_STATUS_CODE", 16) == 0)
            continue;
        assert_int_equal(sscanf(value, "%i", (int *)&code), 1);
        assert_string_equal(tide_status_name((tide_status)code), name);
        found++;
    }
    fclose(header);
    assert_true(found >= 30);
    assert_string_equal(tide_status_name(TIDE_STATUS_CODE(0x12345)), "unknown status");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_is_kept_with_all_its_parts),
        cmocka_unit_test(a_long_message_is_cut),
        cmocka_unit_test(each_thread_has_its_own),
        cmocka_unit_test(every_status_has_its_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
