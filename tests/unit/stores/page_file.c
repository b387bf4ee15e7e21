/*
 * Page files on disk: every configuration and path that is refused, locks, stale and foreign files, and that nothing is
 * left.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = TIDE_PAGE_BYTES };

/* Stores of one file at the path. */
static struct stores_options one_file(const char *path, uint64_t minimum, uint64_t maximum)
{
    static tide_page_file_config config;

    config = (tide_page_file_config){ .path = path, .minimum_bytes = minimum, .maximum_bytes = maximum };
    return (struct stores_options){ .files = &config, .file_count = 1 };
}

static void assert_one_refused(tide_status status, const char *path, uint64_t minimum, uint64_t maximum,
                               const char *value, const char *limit)
{
    const struct stores_options options = one_file(path, minimum, maximum);

    assert_refused(&options, status, path, value, limit, NULL);
}

/* ---- configurations --------------------------------------------------------------------------------------------- */

static void test_sizes_refused(void **state)
{
    const char *const path = in_folder("page");

    (void)state;
    assert_one_refused(TIDE_INVALID_PARAMETER, path, 10 * PAGE + 1, 0, "minimum_bytes 40961", "4096");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, 10 * PAGE, 20 * PAGE + 512, "maximum_bytes 82432", "4096");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, PAGE, 0, "minimum_bytes 4096", "8192");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, 0, 0, "minimum_bytes 0", "8192");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, 10 * PAGE, 9 * PAGE, "maximum_bytes 36864", "minimum_bytes 40960");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, (1ull << 44) + PAGE, 0, "17592186048512", "17592186044416");
    assert_one_refused(TIDE_INVALID_PARAMETER, path, 2 * PAGE, (1ull << 44) + PAGE, "17592186048512", "17592186044416");
    assert_int_equal(folder_entries(), 0);
}

static void test_paths_refused(void **state)
{
    struct stores_options options = one_file(NULL, 10 * PAGE, 0);
    char name[400];

    (void)state;
    assert_refused(&options, TIDE_INVALID_PARAMETER, "page file 0", "path", NULL);
    options = one_file("", 10 * PAGE, 0);
    assert_refused(&options, TIDE_INVALID_PARAMETER, "page file 0", "path", NULL);
    assert_one_refused(TIDE_INVALID_PARAMETER, in_folder("page/"), 10 * PAGE, 0, "folder", "folder");
    assert_one_refused(TIDE_IO_ERROR, in_folder("missing/page"), 10 * PAGE, 0, "folder", strerror(ENOENT));
    assert_int_equal(tide_last_error()->io_error, ENOENT);
    assert_one_refused(TIDE_OBJECT_NAME_COLLISION, in_folder("."), 10 * PAGE, 0, "folder", "folder");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    options = one_file(in_folder(name), 10 * PAGE, 0);
    assert_refused(&options, TIDE_IO_ERROR, strerror(ENAMETOOLONG), NULL);
    assert_int_equal(folder_entries(), 0);
}

static void test_too_many_files(void **state)
{
    tide_page_file_config configs[TIDE_MAX_PAGE_FILES + 1];
    char paths[TIDE_MAX_PAGE_FILES + 1][320];

    (void)state;
    for (unsigned i = 0; i <= TIDE_MAX_PAGE_FILES; i++) {
        (void)snprintf(paths[i], sizeof paths[i], "%s-%u", in_folder("page"), i);
        configs[i] = (tide_page_file_config){ .path = paths[i], .minimum_bytes = (2 + i) * PAGE };
    }
    struct stores_options options = { .files = configs, .file_count = TIDE_MAX_PAGE_FILES + 1 };
    assert_refused(&options, TIDE_INVALID_PARAMETER, "17", "16", NULL);
    assert_int_equal(folder_entries(), 0);
    options.file_count = TIDE_MAX_PAGE_FILES;
    struct stores *stores = stores_good(&options);
    assert_int_equal(folder_entries(), TIDE_MAX_PAGE_FILES);
    assert_int_equal(stores_file_count(stores), TIDE_MAX_PAGE_FILES);
    assert_int_equal(stores_capacity_pages(stores), 16 * 17 / 2); /* 1 + 2 + ... + 16 */
    stores_destroy(stores);
}

static void test_no_files(void **state)
{
    const struct stores_options options = { .file_count = 0 };
    struct stores *stores = stores_good(&options);
    struct stores_slot slot;
    struct stores_statistics statistics;

    (void)state;
    assert_int_equal(stores_capacity_pages(stores), 0);
    assert_int_equal(stores_slots_allocate(stores, 8, 0, &slot), 0);
    stores_statistics_get(stores, &statistics);
    assert_int_equal(statistics.total_slots, 0);
    assert_false(stores_slot_allocated(stores, (struct stores_slot){ 0, 1 }));
    stores_destroy(stores);
    stores_destroy(NULL);
}

static void test_same_file_twice(void **state)
{
    char other[320];
    tide_page_file_config configs[2] = {
        { .path = in_folder("page"), .minimum_bytes = 10 * PAGE },
        { .path = in_folder("page"), .minimum_bytes = 10 * PAGE },
    };
    const struct stores_options options = { .files = configs, .file_count = 2 };

    (void)state;
    assert_refused(&options, TIDE_INVALID_PARAMETER, configs[0].path, "twice", "0 and 1", NULL);
    (void)snprintf(other, sizeof other, "%s/./page", in_folder("."));
    configs[1].path = other;
    assert_refused(&options, TIDE_INVALID_PARAMETER, other, "twice", "0 and 1", NULL);
    assert_int_equal(folder_entries(), 0);
    /* Two names of one (empty) file. */
    write_file(configs[0].path, "", 0);
    configs[1].path = in_folder("link");
    assert_int_equal(link(configs[0].path, configs[1].path), 0);
    assert_refused(&options, TIDE_INVALID_PARAMETER, "link", "twice", "0 and 1", NULL);
    assert_int_equal(folder_entries(), 2);
    assert_int_equal(unlink(configs[0].path), 0);
    assert_int_equal(unlink(configs[1].path), 0);
}

/* ---- disks ------------------------------------------------------------------------------------------------------ */

static void test_disk_full(void **state)
{
    (void)state;
    if (!folder_mount("tmpfs", 0, "size=1m"))
        skip();
    assert_one_refused(TIDE_DISK_FULL, in_folder("page"), 2u << 20, 0, "needs 2097152 bytes", "free");
    assert_int_equal(tide_last_error()->io_error, ENOSPC);
    assert_int_equal(folder_entries(), 0);

    /* The first of two fits, and is not left behind. 1 MiB less 600 KiB and the second's header are free. */
    const tide_page_file_config configs[2] = {
        { .path = in_folder("first"), .minimum_bytes = 600 << 10 },
        { .path = in_folder("second"), .minimum_bytes = 600 << 10 },
    };
    const struct stores_options options = { .files = configs, .file_count = 2 };
    assert_refused(&options, TIDE_DISK_FULL, configs[1].path, "needs 614400 bytes", "430080 free", NULL);
    assert_int_equal(folder_entries(), 0);

    /* An empty file that was there is empty again. */
    write_file(in_folder("second"), "", 0);
    assert_refused(&options, TIDE_DISK_FULL, configs[1].path, "needs 614400 bytes", NULL);
    assert_int_equal(folder_entries(), 1);
    struct stat status;
    assert_int_equal(stat(in_folder("second"), &status), 0);
    assert_int_equal(status.st_size, 0);
    assert_int_equal(unlink(in_folder("second")), 0);

    /* What fits, fits, and has its space. */
    const struct stores_options fits = one_file(in_folder("page"), 1u << 20, 0);
    struct stores *stores = stores_good(&fits);
    assert_int_equal(stores_capacity_pages(stores), 255);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
}

static void test_file_size_limit(void **state)
{
    struct rlimit old;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit low = { .rlim_cur = 100 * PAGE, .rlim_max = old.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    assert_one_refused(TIDE_DISK_FULL, in_folder("page"), 101 * PAGE, 0, "413696", "409600");
    const struct stores_options fits = one_file(in_folder("page"), 100 * PAGE, 0);
    struct stores *stores = stores_good(&fits);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
}

static void test_read_only_file_system(void **state)
{
    (void)state;
    if (!folder_mount("tmpfs", MS_RDONLY, "size=1m"))
        skip();
    assert_one_refused(TIDE_IO_ERROR, in_folder("page"), 10 * PAGE, 0, "created", strerror(EROFS));
    assert_int_equal(tide_last_error()->io_error, EROFS);
}

static void test_read_only_folder(void **state)
{
    const uid_t user = geteuid(), nobody = 65534;

    (void)state;
    assert_int_equal(chmod(in_folder("."), 0555), 0);
    if (user == 0) /* who may write everywhere */
        assert_int_equal(seteuid(nobody), 0);
    assert_one_refused(TIDE_IO_ERROR, in_folder("page"), 10 * PAGE, 0, strerror(EACCES), "page file");
    assert_int_equal(tide_last_error()->io_error, EACCES);
    assert_int_equal(seteuid(user), 0);
    assert_int_equal(chmod(in_folder("."), 0700), 0);
}

/* A file system that refuses O_DIRECT and has no fallocate: buffered, and otherwise the same. */
static void test_no_direct_io(void **state)
{
    (void)state;
    if (!folder_mount("ramfs", 0, NULL))
        skip();
    const int probe = open(in_folder("probe"), O_RDWR | O_CREAT | O_DIRECT, 0600);
    (void)unlink(in_folder("probe"));
    if (probe >= 0) {
        close(probe);
        print_message("ramfs takes O_DIRECT here\n");
        skip();
    }
    const struct stores_options options = one_file(in_folder("page"), 50 * PAGE, 0);
    struct stores *stores = stores_good(&options);
    struct stat status;
    assert_false(stores->files[0].file.direct);
    assert_int_equal(stat(in_folder("page"), &status), 0);
    assert_int_equal(status.st_size, 50 * PAGE);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
}

static void test_size_header_and_mode(void **state)
{
    struct stores_options options = one_file(in_folder("page"), 1000 * PAGE, 3000 * PAGE);
    struct page_file_header header;
    struct stat status;
    char page[PAGE];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        options.disable_direct_io = i != 0;
        struct stores *stores = stores_good(&options);
        const int probe = open(in_folder("page"), O_RDONLY | O_DIRECT);
        const int flags = fcntl(stores->files[0].file.fd, F_GETFL);
        assert_int_equal(stores->files[0].file.direct, probe >= 0 && i == 0);
        assert_int_equal((flags & O_DIRECT) != 0, probe >= 0 && i == 0);
        if (probe >= 0)
            close(probe);
        assert_int_equal(stores_capacity_pages(stores), 999);
        assert_int_equal(stat(in_folder("page"), &status), 0);
        assert_int_equal(status.st_size, 1000 * PAGE);
        assert_true(status.st_blocks * 512 >= 1000 * PAGE);
        assert_int_equal(status.st_mode & 0177, 0);
        const int descriptor = open(in_folder("page"), O_RDONLY);
        assert_true(descriptor >= 0);
        assert_int_equal(read(descriptor, page, sizeof page), sizeof page);
        close(descriptor);
        memcpy(&header, page, sizeof header);
        assert_memory_equal(header.magic, PAGE_FILE_MAGIC, sizeof header.magic);
        assert_int_equal(header.version, PAGE_FILE_VERSION);
        assert_int_equal(header.page_bytes, PAGE);
        assert_int_equal(header.minimum_bytes, 1000 * PAGE);
        assert_int_equal(header.maximum_bytes, 3000 * PAGE);
        assert_int_equal(header.pid, getpid());
        for (size_t byte = sizeof header; byte < sizeof page; byte++)
            assert_int_equal(page[byte], 0);
        stores_destroy(stores);
        assert_int_equal(folder_entries(), 0);
    }
}

/* ---- whose file ------------------------------------------------------------------------------------------------- */

/* Refuses the path, and leaves every byte and date of the file alone. */
static void assert_untouched(const char *path, const char *what)
{
    struct stat before, after;

    assert_int_equal(lstat(path, &before), 0);
    const unsigned entries = folder_entries();
    assert_one_refused(TIDE_OBJECT_NAME_COLLISION, path, 10 * PAGE, 0, what, "left alone");
    /* As the second of two files too: the first goes, the foreign one stays. */
    const tide_page_file_config configs[2] = {
        { .path = in_folder("ours"), .minimum_bytes = 10 * PAGE },
        { .path = path, .minimum_bytes = 10 * PAGE },
    };
    const struct stores_options options = { .files = configs, .file_count = 2 };
    assert_refused(&options, TIDE_OBJECT_NAME_COLLISION, path, what, NULL);
    assert_int_equal(folder_entries(), entries);
    assert_int_equal(lstat(path, &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(after.st_size, before.st_size);
    assert_int_equal(after.st_mode, before.st_mode);
    assert_int_equal(after.st_blocks, before.st_blocks);
    assert_memory_equal(&after.st_mtim, &before.st_mtim, sizeof after.st_mtim);
    assert_memory_equal(&after.st_ctim, &before.st_ctim, sizeof after.st_ctim);
}

static void test_foreign_files(void **state)
{
    static const char zeros[3 * PAGE];
    const char *const path = in_folder("foreign");

    (void)state;
    write_file(path, "x", 1);
    assert_untouched(path, "no page file");
    unlink(path);
    write_file(path, "PAGETIDE\r\nis a library, and this a text about it, longer than a header", 70);
    assert_untouched(path, "no page file");
    unlink(path);
    write_file(path, zeros, sizeof zeros);
    assert_untouched(path, "no page file");
    unlink(path);
    write_file(path, PAGE_FILE_MAGIC, 16); /* a header cut short */
    assert_untouched(path, "no page file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_untouched(path, "folder");
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_untouched(path, "no regular file");
    unlink(path);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_untouched(path, "symbolic link");
    unlink(path);
}

static void test_empty_file_is_taken(void **state)
{
    const char *const path = in_folder("page");
    const struct stores_options options = one_file(path, 10 * PAGE, 0);

    (void)state;
    write_file(path, "", 0);
    struct stores *stores = stores_good(&options);
    assert_int_equal(stores_capacity_pages(stores), 9);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
}

static void test_locked_in_this_process(void **state)
{
    const struct stores_options options = one_file(in_folder("page"), 10 * PAGE, 0);
    struct stores *stores = stores_good(&options);
    char pid[40];

    (void)state;
    (void)snprintf(pid, sizeof pid, "process %d", (int)getpid());
    assert_refused(&options, TIDE_SHARING_VIOLATION, in_folder("page"), pid, NULL);
    assert_int_equal(folder_entries(), 1);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
    stores_destroy(stores_good(&options));
}

/* A child that opens the page file, says so, and sleeps until it is killed: the engine that dies. */
static pid_t child_with_page_file(const struct stores_options *options)
{
    int ends[2];
    char said = 0;

    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct stores *stores;
        close(ends[0]);
        if (stores_create(options, &stores) != TIDE_SUCCESS || write(ends[1], "o", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &said, 1), 1);
    close(ends[0]);
    return child;
}

static void kill_child(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_locked_by_a_process_then_stale(void **state)
{
    struct stores_options options = one_file(in_folder("page"), 1000 * PAGE, 0);
    struct stat status;
    char pid[40];

    (void)state;
    const pid_t child = child_with_page_file(&options);
    (void)snprintf(pid, sizeof pid, "process %d", (int)child);
    assert_refused(&options, TIDE_SHARING_VIOLATION, in_folder("page"), pid, NULL);
    assert_int_equal(folder_entries(), 1);
    kill_child(child);
    assert_int_equal(folder_entries(), 1);

    options = one_file(in_folder("page"), 100 * PAGE, 0);
    struct stores *stores = stores_good(&options);
    assert_int_equal(stat(in_folder("page"), &status), 0);
    assert_int_equal(status.st_size, 100 * PAGE);
    assert_int_equal(stores_capacity_pages(stores), 99);
    assert_refused(&options, TIDE_SHARING_VIOLATION, in_folder("page"), NULL);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);
}

/* A take-over that fails leaves a page file that the next one takes over. */
static void test_failed_take_over(void **state)
{
    (void)state;
    if (!folder_mount("tmpfs", 0, "size=1m"))
        skip();
    struct stores_options options = one_file(in_folder("page"), 600 << 10, 0);
    kill_child(child_with_page_file(&options));
    assert_one_refused(TIDE_DISK_FULL, in_folder("page"), 2u << 20, 0, "needs 2097152", "free");
    assert_int_equal(folder_entries(), 1);
    options = one_file(in_folder("page"), 1u << 20, 0);
    stores_destroy(stores_good(&options));
    assert_int_equal(folder_entries(), 0);
}

/* Many open and close one path at once: each either has the file to itself or is refused as the contract says. */
static void test_race_for_a_path(void **state)
{
    const struct stores_options options = one_file(in_folder("page"), 4 * PAGE, 0);
    char claim[300], page[300]; /* copies: in_folder() has room for a few paths only, and the loop asks for many */
    pid_t children[4];

    (void)state;
    (void)snprintf(claim, sizeof claim, "%s", in_folder("claim"));
    (void)snprintf(page, sizeof page, "%s", in_folder("page"));
    for (unsigned i = 0; i < 4; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] != 0)
            continue;
        unsigned opened = 0;
        for (unsigned n = 0; n < 500 / EFFORT_DIVISOR || opened < 10; n++) {
            struct stores *stores;
            const tide_status status = stores_create(&options, &stores);
            if (status == TIDE_SHARING_VIOLATION)
                continue;
            if (status != TIDE_SUCCESS) {
                (void)fprintf(stderr, "%s\n", tide_last_error()->message);
                _exit(1);
            }
            /* Only one process has the page file, so only one can make this. */
            const int descriptor = open(claim, O_CREAT | O_EXCL | O_WRONLY, 0600);
            if (descriptor < 0 || close(descriptor) != 0 || unlink(claim) != 0 || access(page, F_OK) != 0)
                _exit(2);
            stores_destroy(stores);
            opened++;
        }
        _exit(0);
    }
    for (unsigned i = 0; i < 4; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(folder_entries(), 0);
}

/* ---- removal ---------------------------------------------------------------------------------------------------- */

static void test_removed_wherever_it_moved(void **state)
{
    char old_directory[PATH_MAX];

    (void)state;
    /* A relative path, and then another working directory. */
    assert_non_null(getcwd(old_directory, sizeof old_directory));
    assert_int_equal(chdir(in_folder(".")), 0);
    struct stores_options options = one_file("page", 10 * PAGE, 0);
    struct stores *stores = stores_good(&options);
    assert_int_equal(chdir(old_directory), 0);
    assert_int_equal(folder_entries(), 1);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 0);

    /* A folder that is renamed. */
    assert_int_equal(mkdir(in_folder("before"), 0700), 0);
    options = one_file(in_folder("before/page"), 10 * PAGE, 0);
    stores = stores_good(&options);
    assert_int_equal(rename(in_folder("before"), in_folder("after")), 0);
    stores_destroy(stores);
    assert_int_equal(rmdir(in_folder("after")), 0);

    /* A page file that somebody replaced: theirs stays. */
    options = one_file(in_folder("page"), 10 * PAGE, 0);
    stores = stores_good(&options);
    assert_int_equal(unlink(in_folder("page")), 0);
    write_file(in_folder("page"), "theirs", 6);
    stores_destroy(stores);
    assert_int_equal(folder_entries(), 1);
    assert_int_equal(unlink(in_folder("page")), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sizes_refused),
        TEST(test_paths_refused),
        TEST(test_too_many_files),
        TEST(test_no_files),
        TEST(test_same_file_twice),
        TEST(test_disk_full),
        TEST(test_file_size_limit),
        TEST(test_read_only_file_system),
        TEST(test_read_only_folder),
        TEST(test_no_direct_io),
        TEST(test_size_header_and_mode),
        TEST(test_foreign_files),
        TEST(test_empty_file_is_taken),
        TEST(test_locked_in_this_process),
        TEST(test_locked_by_a_process_then_stale),
        TEST(test_failed_take_over),
        TEST(test_race_for_a_path),
        TEST(test_removed_wherever_it_moved),
    };

    return cmocka_run_group_tests_name("page_file", tests, NULL, NULL);
}
