/*
 * Fixture, simulated device, stamps and crews of the API tests; the contracts are in support.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- the simulated device --------------------------------------------------------------------------------------- */

static int device_filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    struct device *device = context;
    int error = 0;

    pthread_mutex_lock(&device->lock);
    device->waiting[kind]++;
    pthread_cond_broadcast(&device->moved);
    while ((device->held[kind] & 1u << file) != 0)
        pthread_cond_wait(&device->moved, &device->lock);
    device->waiting[kind]--;
    if (device->failures[kind] > 0) {
        if (device->skip[kind] > 0) {
            device->skip[kind]--;
        } else {
            error = device->error[kind];
            device->failed[kind]++;
            if (device->failures[kind] != DEVICE_ALWAYS)
                device->failures[kind]--;
        }
    }
    if (device->worn.error != 0 && kind == device->worn.kind) {
        if (device->worn.first == 0 && device->worn.skip-- == 0) {
            device->worn.file = file;
            device->worn.first = slot + device->worn.offset;
        }
        if (device->worn.first != 0 && file == device->worn.file && slot < device->worn.first + device->worn.count &&
            slot + pages > device->worn.first) {
            error = device->worn.error;
            device->failed[kind]++;
        }
    }
    pthread_mutex_unlock(&device->lock);

    const unsigned delay = atomic_load(&device->delay_us[kind][file]);
    if (delay > 0) {
        const struct timespec time = { delay / 1000000, (long)(delay % 1000000) * 1000 };
        nanosleep(&time, NULL);
    }
    if (error == 0) {
        atomic_fetch_add(&device->operations[kind][file], 1);
        atomic_fetch_add(&device->pages[kind][file], pages);
    }
    return error;
}

static void files_hold(struct device *device, tide_io_kind kind, uint32_t files, bool hold)
{
    pthread_mutex_lock(&device->lock);
    device->held[kind] = hold ? device->held[kind] | files : device->held[kind] & ~files;
    pthread_cond_broadcast(&device->moved);
    pthread_mutex_unlock(&device->lock);
}

void device_hold(struct device *device, tide_io_kind kind, bool hold)
{
    files_hold(device, kind, UINT32_MAX, hold);
}

void device_hold_file(struct device *device, tide_io_kind kind, unsigned file, bool hold)
{
    files_hold(device, kind, 1u << file, hold);
}

void device_wait_held(struct device *device, tide_io_kind kind, unsigned count)
{
    pthread_mutex_lock(&device->lock);
    while (device->waiting[kind] < count)
        pthread_cond_wait(&device->moved, &device->lock);
    pthread_mutex_unlock(&device->lock);
}

void device_fail(struct device *device, tide_io_kind kind, int error, unsigned skip, unsigned count)
{
    pthread_mutex_lock(&device->lock);
    device->error[kind] = error;
    device->skip[kind] = skip;
    device->failures[kind] = count;
    pthread_mutex_unlock(&device->lock);
}

void device_wear(struct device *device, tide_io_kind kind, int error, unsigned skip, unsigned offset, unsigned count)
{
    pthread_mutex_lock(&device->lock);
    device->worn.kind = kind;
    device->worn.error = error;
    device->worn.skip = skip;
    device->worn.offset = offset;
    device->worn.count = count;
    device->worn.first = 0;
    pthread_mutex_unlock(&device->lock);
}

unsigned device_failed(struct device *device, tide_io_kind kind)
{
    pthread_mutex_lock(&device->lock);
    const unsigned failed = device->failed[kind];
    pthread_mutex_unlock(&device->lock);
    return failed;
}

bool support_mapped(void)
{
    const char *spaces = getenv("TIDE_TEST_SPACES");
    return spaces != NULL && strcmp(spaces, "mapped") == 0;
}

/* ---- plain pointers --------------------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf *volatile way_out; /* where an access goes on whose page cannot be had */
static _Thread_local void *volatile refused_at;

static void access_refused(int number, siginfo_t *info, void *context)
{
    (void)context;
    refused_at = info->si_addr;
    if (way_out != NULL)
        siglongjmp(*way_out, number);
    signal(number, SIG_DFL); /* the access is tried again, and ends the program */
}

void pointer_signals_take(void)
{
    const struct sigaction ours = { .sa_sigaction = access_refused, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &ours, NULL);
    sigaction(SIGBUS, &ours, NULL);
}

int pointer_try(volatile char *at, bool write, char *byte)
{
    sigjmp_buf here;
    const int number = sigsetjmp(here, 1);
    if (number == 0) {
        way_out = &here;
        if (write)
            *at = *byte;
        else
            *byte = *at;
    }
    way_out = NULL;
    if (number != 0 && refused_at != at)
        print_error("signal %d names %p, and the access was to %p\n", number, refused_at, (void *)(uintptr_t)at);
    return number == 0 || refused_at == at ? number : -1;
}

/* Copies a page by plain loads, as a program does; false if it was told that it may not. */
static bool page_load(tide_address address, void *to)
{
    sigjmp_buf here;
    if (sigsetjmp(here, 1) != 0) {
        way_out = NULL;
        return false;
    }
    way_out = &here;
    const volatile uint64_t *from = tide_pointer(address);
    for (unsigned i = 0; i < PG / sizeof(*from); i++)
        ((uint64_t *)to)[i] = from[i];
    way_out = NULL;
    return true;
}

/* ---- the fixture ------------------------------------------------------------------------------------------------ */

/* Entries of the folder, removed if `remove_them`. */
static unsigned folder_entries(const char *folder, bool remove_them)
{
    unsigned count = 0;
    DIR *directory = opendir(folder);
    if (directory == NULL)
        return 0;
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (remove_them)
            unlinkat(dirfd(directory), entry->d_name, 0);
        else
            print_error("left on disk: %s/%s\n", folder, entry->d_name);
    }
    closedir(directory);
    return count;
}

int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    const char *temporary = getenv("TMPDIR");
    snprintf(fixture->folder, sizeof(fixture->folder), "%s/tide-test-XXXXXX",
             temporary != NULL && temporary[0] != '\0' ? temporary : ".");
    if (mkdtemp(fixture->folder) == NULL) {
        print_error("cannot create %s: %s\n", fixture->folder, strerror(errno));
        free(fixture);
        return -1;
    }
    pthread_mutex_init(&fixture->device.lock, NULL);
    pthread_cond_init(&fixture->device.moved, NULL);
    tide_config_init(&fixture->config);
    fixture->config.disable_aslr = true;
    fixture->config.workers = TIDE_WORKERS_MANUAL;
    fixture->config.cpu_cache_pages = TIDE_NO_CPU_CACHE;
    fixture->config.list_shards = 1;
    fixture->config.disable_huge_pages = true;
    fixture->config.frame_wait_ms = 20000;
    fixture->config.io_filter = device_filter;
    fixture->config.io_filter_context = &fixture->device;
    fixture->config.page_files = fixture->files;
    *state = fixture;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    folder_entries(fixture->folder, true);
    rmdir(fixture->folder);
    if (fixture->engine != NULL)
        return 0; /* the test failed: its engine and threads may still use the fixture */
    pthread_cond_destroy(&fixture->device.moved);
    pthread_mutex_destroy(&fixture->device.lock);
    free(fixture);
    return 0;
}

void fixture_page_file(struct fixture *fixture, uint64_t usable_pages)
{
    const unsigned index = fixture->config.page_file_count++;
    snprintf(fixture->paths[index], sizeof(fixture->paths[index]), "%s/page%u.sys", fixture->folder, index);
    fixture->files[index].path = fixture->paths[index];
    fixture->files[index].minimum_bytes = (usable_pages + 1) * PG; /* slot 0 is the header */
}

void fixture_page_file_growing(struct fixture *fixture, uint64_t usable_pages, uint64_t maximum_pages)
{
    fixture_page_file(fixture, usable_pages);
    fixture->files[fixture->config.page_file_count - 1].maximum_bytes = (maximum_pages + 1) * PG;
}

void fixture_open(struct fixture *fixture, uint64_t frames)
{
    fixture->config.memory_bytes = frames * PG;
    if (support_mapped())
        pointer_signals_take(); /* before the library's handler is there, which passes on to it */
    assert_success(tide_engine_open(&fixture->config, &fixture->engine));
    fixture->at_open = statistics_now(fixture);
    assert_int_equal(fixture->at_open.total_pages, frames);
}

void fixture_verify(struct fixture *fixture)
{
    tide_verify_report report;
    const tide_status status = tide_engine_verify(fixture->engine, &report);
    if (status != TIDE_SUCCESS)
        print_error("verification: %llu violations, the first: %s\n", (unsigned long long)report.violations,
                    report.first);
    assert_success(status);
    assert_int_equal(report.frames_checked, fixture->at_open.total_pages);
}

void fixture_close(struct fixture *fixture)
{
    fixture_verify(fixture);
    for (unsigned i = 0; i < FIXTURE_SPACES; i++) {
        if (fixture->spaces[i] != NULL)
            space_close(fixture, fixture->spaces[i]);
    }
    fixture_verify(fixture);
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.spaces, fixture->at_open.spaces);
    assert_int_equal(now.commit_total_pages, fixture->at_open.commit_total_pages);
    assert_int_equal(now.table_pages, fixture->at_open.table_pages);
    assert_int_equal(now.page_file_used_slots, 0);
    assert_int_equal(now.open_sections, 0);
    assert_success(tide_engine_close(fixture->engine));
    fixture->engine = NULL;
    assert_int_equal(folder_entries(fixture->folder, false), 0);
}

tide_space *space_new(struct fixture *fixture)
{
    tide_space *space = NULL;
    if (support_mapped()) {
        tide_mapped_options options;
        tide_mapped_options_init(&options);
        options.cluster_pages = 1; /* each fault is one page, as the figures have it */
        assert_success(tide_mapped_space_create(fixture->engine, &options, &space));
    } else {
        assert_success(tide_space_create(fixture->engine, &space));
    }
    for (unsigned i = 0; i < FIXTURE_SPACES; i++) {
        if (fixture->spaces[i] == NULL) {
            fixture->spaces[i] = space;
            return space;
        }
    }
    fail_msg("more than %d spaces in a fixture", FIXTURE_SPACES);
    return NULL;
}

void space_close(struct fixture *fixture, tide_space *space)
{
    assert_success(tide_space_destroy(space));
    for (unsigned i = 0; i < FIXTURE_SPACES; i++) {
        if (fixture->spaces[i] == space)
            fixture->spaces[i] = NULL;
    }
}

tide_address space_at(const tide_space *space, tide_address address)
{
    tide_address lowest = 0, highest = 0;
    assert_success(tide_space_range(space, &lowest, &highest));
    return lowest == TIDE_LOWEST_ADDRESS || address == 0 || address >= lowest ? address : lowest + address;
}

tide_address region_new_at(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t bytes = pages * PG;
    base = space_at(space, base);
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_int_equal(bytes, pages * PG);
    return base;
}

tide_address region_new(tide_space *space, uint64_t pages)
{
    return region_new_at(space, 0, pages);
}

void region_decommit(tide_space *space, tide_address base, uint64_t pages)
{
    assert_success(tide_virtual_free(space, base, pages * PG, TIDE_MEM_DECOMMIT));
}

int support_main(int argc, char **argv, const char *group, const struct CMUnitTest *tests, size_t count)
{
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++)
            puts(tests[i].name);
        return 0;
    }
    if (support_mapped() && tide_failed(tide_mapped_check(TIDE_DELIVERY_SIGNAL))) {
        print_message("skipped: %s\n", tide_last_error()->message);
        return SUPPORT_SKIPPED;
    }
    const char *filter = argc > 1 ? argv[1] : getenv("TIDE_TEST_FILTER");
    if (filter != NULL && filter[0] != '\0')
        cmocka_set_test_filter(filter);
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL) == 0 ? 0 : 1;
}

/* ---- statuses and figures --------------------------------------------------------------------------------------- */

void support_assert_status(tide_status got, tide_status expected, const char *call, const char *file, int line)
{
    if (got == expected)
        return;
    print_error("%s: got %s (0x%08X), expected %s", call, tide_status_name(got), (unsigned)got,
                tide_status_name(expected));
    if (tide_failed(got))
        print_error("; %s (errno %d)", tide_last_error()->message, tide_last_error()->io_error);
    print_error("\n");
    _fail(file, line);
}

void support_assert_between(uint64_t value, uint64_t lower, uint64_t upper, const char *what, const char *file,
                            int line)
{
    if (value >= lower && value <= upper)
        return;
    print_error("%s is %llu, not in %llu to %llu\n", what, (unsigned long long)value, (unsigned long long)lower,
                (unsigned long long)upper);
    _fail(file, line);
}

tide_statistics statistics_now(const struct fixture *fixture)
{
    tide_statistics statistics = { .struct_bytes = sizeof(statistics) };
    assert_success(tide_statistics_get(fixture->engine, &statistics));
    return statistics;
}

tide_page_file_statistics page_file_now(const struct fixture *fixture, unsigned index)
{
    tide_page_file_statistics statistics = { .struct_bytes = sizeof(statistics) };
    assert_success(tide_page_file_statistics_get(fixture->engine, index, &statistics));
    return statistics;
}

tide_node_statistics node_now(const struct fixture *fixture, unsigned node)
{
    tide_node_statistics statistics;
    memset(&statistics, 0, sizeof(statistics));
    assert_success(tide_node_statistics_get(fixture->engine, node, &statistics));
    return statistics;
}

tide_space_statistics space_now(tide_space *space)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof(statistics) };
    assert_success(tide_space_statistics_get(space, &statistics));
    return statistics;
}

tide_page_info page_now(tide_space *space, tide_address address)
{
    tide_page_info info;
    memset(&info, 0, sizeof(info));
    assert_success(tide_page_query(space, address, &info));
    return info;
}

uint64_t pages_in_state(tide_space *space, tide_address base, uint64_t pages, tide_page_state state)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < pages; i++)
        count += page_now(space, base + i * PG).state == state;
    return count;
}

uint64_t standby_pages(const tide_node_statistics *node)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < 8; i++)
        pages += node->standby[i];
    return pages;
}

uint64_t node_sum(const tide_node_statistics *node)
{
    return node->zeroed + node->free + standby_pages(node) + node->modified + node->modified_no_write + node->bad +
           node->transition + node->active;
}

/* ---- moving pages ----------------------------------------------------------------------------------------------- */

void touch_pages(tide_space *space, tide_address base, uint64_t pages, tide_access_kind kind, tide_status expected)
{
    for (uint64_t i = 0; i < pages; i++)
        assert_status(tide_touch(space, base + i * PG, kind), expected);
}

void trim_all(tide_space *space)
{
    assert_success(tide_working_set_empty(space));
    assert_int_equal(space_now(space).working_set_pages, 0);
}

void write_modified(struct fixture *fixture)
{
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
}

void empty_standby(struct fixture *fixture)
{
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_STANDBY));
}

void zero_free(struct fixture *fixture)
{
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_FREE));
}

void page_out(struct fixture *fixture, tide_space *space)
{
    trim_all(space);
    write_modified(fixture);
    empty_standby(fixture);
}

void consume_frames(struct fixture *fixture, tide_space *space, tide_address *next, uint64_t left)
{
    for (;;) {
        uint64_t at_hand = 0;
        for (unsigned node = 0; node < fixture->at_open.node_count; node++) {
            const tide_node_statistics now = node_now(fixture, node);
            at_hand += now.zeroed + now.free;
        }
        if (at_hand <= left) {
            assert_int_equal(at_hand, left);
            return;
        }
        assert_status(tide_touch(space, *next, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
        *next += PG;
    }
}

/* ---- stamps ----------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

uint64_t random_step(uint64_t *state)
{
    return mix(*state += 0x9E3779B97F4A7C15ull);
}

uint64_t *random_order(uint64_t count, uint64_t seed)
{
    uint64_t *order = malloc((size_t)count * sizeof(*order));
    assert_non_null(order);
    for (uint64_t i = 0; i < count; i++)
        order[i] = i;
    for (uint64_t i = count; i > 1; i--) {
        const uint64_t other = random_step(&seed) % i;
        const uint64_t swapped = order[i - 1];
        order[i - 1] = order[other];
        order[other] = swapped;
    }
    return order;
}

static uint64_t stamp_seed(uint64_t owner, tide_address address, uint64_t version)
{
    return mix(owner + 1) ^ mix(address + 2) ^ mix(version + 3);
}

void stamp_fill(void *page, uint64_t owner, tide_address address, uint64_t version)
{
    uint64_t *words = page;
    const uint64_t seed = stamp_seed(owner, address, version);
    for (uint64_t i = 0; i < PG / sizeof(*words); i++)
        words[i] = seed + i;
}

bool stamp_matches(const void *page, uint64_t owner, tide_address address, uint64_t version)
{
    const uint64_t *words = page;
    const uint64_t seed = stamp_seed(owner, address, version);
    for (uint64_t i = 0; i < PG / sizeof(*words); i++) {
        if (words[i] != seed + i)
            return false;
    }
    return true;
}

tide_status stamp_put(tide_space *space, tide_address address, uint64_t owner, uint64_t version)
{
    uint64_t page[PG / sizeof(uint64_t)];
    stamp_fill(page, owner, address, version);
    return tide_write(space, address, page, PG);
}

tide_status stamp_check(tide_space *space, tide_address address, uint64_t owner, uint64_t version)
{
    uint64_t page[PG / sizeof(uint64_t)];
    tide_status status;
    if (support_mapped() && address % PG == 0) /* what the handler of the fault found is the last error */
        status = page_load(address, page) ? TIDE_SUCCESS : tide_last_error()->status;
    else
        status = tide_read(space, address, page, PG);
    if (tide_failed(status))
        return status;
    return stamp_matches(page, owner, address, version) ? TIDE_SUCCESS : TIDE_INVARIANT_VIOLATED;
}

void stamp_pages(tide_space *space, tide_address base, uint64_t pages, uint64_t owner, uint64_t version)
{
    for (uint64_t i = 0; i < pages; i++)
        assert_success(stamp_put(space, base + i * PG, owner, version));
}

void check_pages(tide_space *space, tide_address base, uint64_t pages, uint64_t owner, uint64_t version)
{
    for (uint64_t i = 0; i < pages; i++)
        assert_success(stamp_check(space, base + i * PG, owner, version));
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct crew {
    unsigned count;
    crew_function *function;
    pthread_barrier_t barrier;
    pthread_t *threads;
    struct crew_member *members;
};

static void *crew_thread(void *argument)
{
    struct crew_member *member = argument;
    atomic_store(&member->tid, (int)syscall(SYS_gettid));
    pthread_barrier_wait(&member->crew->barrier);
    member->crew->function(member);
    atomic_store(&member->done, true);
    return NULL;
}

struct crew *crew_start(unsigned count, crew_function *function, void *context)
{
    struct crew *crew = calloc(1, sizeof(*crew));
    assert_non_null(crew);
    crew->count = count;
    crew->function = function;
    crew->threads = calloc(count, sizeof(*crew->threads));
    crew->members = calloc(count, sizeof(*crew->members));
    assert_non_null(crew->threads);
    assert_non_null(crew->members);
    assert_int_equal(pthread_barrier_init(&crew->barrier, NULL, count), 0);
    for (unsigned i = 0; i < count; i++) {
        crew->members[i].index = i;
        crew->members[i].context = context;
        crew->members[i].crew = crew;
        assert_int_equal(pthread_create(&crew->threads[i], NULL, crew_thread, &crew->members[i]), 0);
    }
    return crew;
}

/* Whether a thread of this process sleeps in the kernel: the state letter of /proc, after the name in parentheses. */
static bool thread_sleeps(int tid)
{
    char path[64];
    char text[512];
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    const char *line = fgets(text, sizeof(text), file);
    fclose(file);
    const char *name_end = line == NULL ? NULL : strrchr(line, ')');
    return name_end != NULL && strncmp(name_end, ") S", 3) == 0;
}

void crew_wait_asleep(struct crew *crew)
{
    /* Several looks in a row: a thread may sleep for a moment in the C library or a sanitizer before it waits. */
    for (unsigned quiet = 0; quiet < 5; sleep_ms(2)) {
        bool all = true;
        for (unsigned i = 0; i < crew->count && all; i++) {
            struct crew_member *member = &crew->members[i];
            all = atomic_load(&member->done) ||
                  (atomic_load(&member->entered) && thread_sleeps(atomic_load(&member->tid)));
        }
        quiet = all ? quiet + 1 : 0;
    }
}

void crew_join(struct crew *crew)
{
    unsigned failures = 0;
    for (unsigned i = 0; i < crew->count; i++) {
        pthread_join(crew->threads[i], NULL);
        if (crew->members[i].failure[0] != '\0') {
            print_error("thread %u: %s\n", i, crew->members[i].failure);
            failures++;
        }
    }
    pthread_barrier_destroy(&crew->barrier);
    free(crew->threads);
    free(crew->members);
    free(crew);
    assert_int_equal(failures, 0);
}

void crew_run(unsigned count, crew_function *function, void *context)
{
    crew_join(crew_start(count, function, context));
}

struct crew_member *crew_member_get(struct crew *crew, unsigned index)
{
    return &crew->members[index];
}

void crew_barrier(struct crew_member *member)
{
    pthread_barrier_wait(&member->crew->barrier);
}

void crew_failure(struct crew_member *member, const char *file, int line, const char *format, ...)
{
    if (member->failure[0] != '\0')
        return;
    const int used = snprintf(member->failure, sizeof(member->failure), "%s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(member->failure + used, sizeof(member->failure) - (size_t)used, format, arguments);
    va_end(arguments);
}

void sleep_ms(unsigned milliseconds)
{
    const struct timespec time = { milliseconds / 1000, (long)(milliseconds % 1000) * 1000000 };
    nanosleep(&time, NULL);
}
