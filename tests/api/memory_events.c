/*
 * Acceptance cases of the memory events (nt-behaviour 17: EV-1, EV-2): descriptors that are readable exactly while
 * their condition holds, for all who wait.
 *
 * Where a test looks at a descriptor without a query before it, the slow path alone has brought it in line.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { FRAMES = 1000, LOW = 100, HIGH = 300 };

static int event_fd(const struct fixture *fixture, tide_memory_event event)
{
    int fd = -1;
    assert_success(tide_memory_event_fd(fixture->engine, event, &fd));
    assert_true(fd >= 0);
    return fd;
}

static bool readable(int fd)
{
    struct pollfd look = { .fd = fd, .events = POLLIN };
    return poll(&look, 1, 0) == 1 && (look.revents & POLLIN) != 0;
}

static bool event_set(const struct fixture *fixture, tide_memory_event event)
{
    bool set = false;
    assert_success(tide_memory_event_query(fixture->engine, event, &set));
    assert_int_equal(readable(event_fd(fixture, event)), set);
    return set;
}

static void open_with_thresholds(struct fixture *fixture)
{
    fixture->config.low_memory_event_pages = LOW;
    fixture->config.high_memory_event_pages = HIGH;
    fixture->config.low_available_pages = 20; /* the trimmer stays out of it */
    fixture_open(fixture, FRAMES);
    tide_memory_thresholds thresholds;
    assert_success(tide_memory_thresholds_get(fixture->engine, &thresholds));
    assert_int_equal(thresholds.low_memory_pages, LOW);
    assert_int_equal(thresholds.high_memory_pages, HIGH);
}

struct waiting {
    int fd;
    int epoll;
};

/* One waits by poll, one by epoll; neither takes the event away from the other. */
static void low_waiter(struct crew_member *member)
{
    const struct waiting *waiting = member->context;
    atomic_store(&member->entered, true);
    if (member->index == 0) {
        struct pollfd wait = { .fd = waiting->fd, .events = POLLIN };
        CREW_CHECK(member, poll(&wait, 1, -1) == 1 && (wait.revents & POLLIN) != 0);
    } else {
        struct epoll_event event;
        CREW_CHECK(member, epoll_wait(waiting->epoll, &event, 1, -1) == 1);
    }
}

static void EV_1_low_and_high_memory_follow_available_pages(void **state)
{
    struct fixture *fixture = *state;
    open_with_thresholds(fixture);
    const int low = event_fd(fixture, TIDE_EVENT_LOW_MEMORY), high = event_fd(fixture, TIDE_EVENT_HIGH_MEMORY);
    assert_int_equal(event_fd(fixture, TIDE_EVENT_LOW_MEMORY), low);
    assert_true(readable(high) && !readable(low));

    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FRAMES - 20);
    tide_address next = base;
    consume_frames(fixture, space, &next, 350);
    assert_true(readable(high) && !readable(low));
    consume_frames(fixture, space, &next, HIGH);
    assert_true(readable(high) && !readable(low));
    consume_frames(fixture, space, &next, HIGH - 1);
    assert_true(!readable(high) && !readable(low));
    consume_frames(fixture, space, &next, 200);
    assert_true(!readable(high) && !readable(low));
    consume_frames(fixture, space, &next, LOW);
    assert_true(!readable(high) && !readable(low));

    struct waiting waiting = { .fd = low, .epoll = epoll_create1(EPOLL_CLOEXEC) };
    struct epoll_event interest = { .events = EPOLLIN };
    assert_true(waiting.epoll >= 0);
    assert_int_equal(epoll_ctl(waiting.epoll, EPOLL_CTL_ADD, low, &interest), 0);
    struct crew *crew = crew_start(2, low_waiter, &waiting);
    crew_wait_asleep(crew);
    consume_frames(fixture, space, &next, 90);
    crew_join(crew); /* both were released */
    assert_int_equal(close(waiting.epoll), 0);
    assert_true(readable(low) && !readable(high)); /* and it is still set for whoever comes now */
    assert_true(event_set(fixture, TIDE_EVENT_LOW_MEMORY));
    assert_false(event_set(fixture, TIDE_EVENT_HIGH_MEMORY));

    region_decommit(space, base, 9);
    assert_int_equal(statistics_now(fixture).available_pages, LOW - 1);
    assert_true(readable(low));
    region_decommit(space, base + 9 * PG, 51);
    assert_int_equal(statistics_now(fixture).available_pages, 150);
    assert_true(!readable(low) && !readable(high));
    region_decommit(space, base + 60 * PG, 149);
    assert_true(!readable(high));
    region_decommit(space, base + 209 * PG, 1);
    assert_int_equal(statistics_now(fixture).available_pages, HIGH);
    assert_true(readable(high) && !readable(low));
    fixture_close(fixture);
}

/* Pages that go to standby are available again; that the writer brought them is noticed too. */
static void EV_1_written_pages_are_available(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, FRAMES);
    open_with_thresholds(fixture);
    const int low = event_fd(fixture, TIDE_EVENT_LOW_MEMORY), high = event_fd(fixture, TIDE_EVENT_HIGH_MEMORY);
    tide_space *space = space_new(fixture);
    tide_address next = region_new(space, FRAMES);
    consume_frames(fixture, space, &next, 50);
    assert_true(readable(low));
    trim_all(space); /* to modified, which is not available */
    assert_true(readable(low) && !readable(high));
    uint64_t done;
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 100, &done));
    assert_int_equal(statistics_now(fixture).available_pages, 50 + done);
    assert_true(!readable(low) && !readable(high));
    write_modified(fixture);
    assert_true(readable(high) && !readable(low));
    fixture_close(fixture);
}

/* By default an engine of 1,024 frames has the thresholds 32 and 96; and a large engine NT's 64 MB at most. */
static void EV_1_default_thresholds(void **state)
{
    struct fixture *fixture = *state;
    tide_memory_thresholds thresholds;
    fixture_open(fixture, 1024);
    assert_success(tide_memory_thresholds_get(fixture->engine, &thresholds));
    assert_int_equal(thresholds.low_memory_pages, 32);
    assert_int_equal(thresholds.high_memory_pages, 96);
    fixture_close(fixture);
}

static void wait_until(int fd, bool wanted)
{
    while (readable(fd) != wanted)
        sleep_ms(1);
}

/*
 * With worker threads and CPU caches a change may pass unseen by any slow path. The descriptor agrees in the end all
 * the same, with nothing else going on and with every worker held; also after a user took its level away.
 */
static void EV_1_descriptors_agree_in_the_end_with_worker_threads(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 16;
    fixture->config.list_shards = 4;
    fixture->config.trimmer_period_ms = 3600000;
    open_with_thresholds(fixture);
    for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
        assert_success(tide_worker_hold(fixture->engine, (tide_worker)worker, true));
    const int low = event_fd(fixture, TIDE_EVENT_LOW_MEMORY), high = event_fd(fixture, TIDE_EVENT_HIGH_MEMORY);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FRAMES - 20);
    for (unsigned round = 0; round < 3; round++) {
        wait_until(high, true);
        wait_until(low, false);
        touch_pages(space, base, FRAMES - LOW + 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
        wait_until(low, true);
        wait_until(high, false);
        uint64_t count;
        assert_int_equal(read(low, &count, sizeof(count)), sizeof(count)); /* a user who should not have */
        wait_until(low, true);
        count = 1;
        assert_int_equal(write(high, &count, sizeof(count)), sizeof(count));
        wait_until(high, false);
        region_decommit(space, base, FRAMES - LOW + 1);
        uint64_t bytes = (FRAMES - 20) * PG;
        tide_address again = base;
        assert_success(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    }
    fixture_close(fixture);
}

/* ---- commit ----------------------------------------------------------------------------------------------------- */

/* What must be set, by the figures: charge against the limits of now. */
static void assert_commit_events(const struct fixture *fixture)
{
    const tide_statistics now = statistics_now(fixture);
    const uint64_t charge = now.commit_total_pages;
    assert_int_equal(event_set(fixture, TIDE_EVENT_LOW_COMMIT), charge * 100 < now.commit_limit_pages * 50);
    assert_int_equal(event_set(fixture, TIDE_EVENT_HIGH_COMMIT), charge * 100 >= now.commit_limit_pages * 90);
    assert_int_equal(event_set(fixture, TIDE_EVENT_MAXIMUM_COMMIT),
                     charge * 100 >= now.commit_limit_maximum_pages * 90);
}

static void commit_at(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t bytes = pages * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
}

static void EV_2_low_high_and_maximum_commit(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 3000);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    const int low = event_fd(fixture, TIDE_EVENT_LOW_COMMIT), high = event_fd(fixture, TIDE_EVENT_HIGH_COMMIT),
              maximum = event_fd(fixture, TIDE_EVENT_MAXIMUM_COMMIT);
    assert_true(readable(low) && !readable(high) && !readable(maximum)); /* a fresh system */

    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 2 * limit * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_true(readable(low));
    /* Up in large steps, which leave no doubt: the descriptors follow without a query. */
    commit_at(space, base, limit * 40 / 100);
    assert_true(readable(low) && !readable(high) && !readable(maximum));
    commit_at(space, base + limit * 40 / 100 * PG, limit * 30 / 100);
    assert_true(!readable(low) && !readable(high) && !readable(maximum));
    commit_at(space, base + limit * 70 / 100 * PG, limit * 25 / 100);
    const tide_statistics now = statistics_now(fixture);
    assert_true(!readable(low));
    assert_int_equal(readable(high), now.commit_total_pages * 100 >= now.commit_limit_pages * 90);
    assert_int_equal(readable(maximum), now.commit_total_pages * 100 >= now.commit_limit_maximum_pages * 90);
    assert_true(now.commit_limit_pages < now.commit_limit_maximum_pages || (readable(high) && readable(maximum)));
    assert_commit_events(fixture);
    /* To the last page: whatever could grow has grown, and all that is left is set. */
    for (uint64_t chunk = 256, at = limit * 96 / 100; chunk > 0;) {
        tide_address next = base + at * PG;
        bytes = chunk * PG;
        const tide_status status = tide_virtual_alloc(space, &next, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
        if (status == TIDE_SUCCESS)
            at += chunk;
        else
            chunk /= 2;
    }
    assert_true(!readable(low) && readable(high) && readable(maximum));
    assert_commit_events(fixture);
    /* And down again. */
    region_decommit(space, base, limit * 30 / 100);
    assert_commit_events(fixture);
    region_decommit(space, base + limit * 30 / 100 * PG, limit * 40 / 100);
    assert_true(readable(low) && !readable(high) && !readable(maximum));
    fixture_close(fixture);
}

/*
 * With a page file that can grow there is a time in which commit is high and not yet at its maximum. Nobody grows the
 * file here but a commit that is refused: workers are manual.
 */
static void EV_2_high_commit_alone_while_a_page_file_can_grow(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 1000);
    fixture->files[0].maximum_bytes = 4 * fixture->files[0].minimum_bytes;
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    assert_true(fixture->at_open.commit_limit_maximum_pages > limit);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 8 * limit * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    commit_at(space, base, limit * 95 / 100);
    assert_true(event_set(fixture, TIDE_EVENT_HIGH_COMMIT));
    assert_false(event_set(fixture, TIDE_EVENT_LOW_COMMIT));
    assert_false(event_set(fixture, TIDE_EVENT_MAXIMUM_COMMIT));
    assert_commit_events(fixture);
    fixture_close(fixture);
}

/* Page by page over each threshold: a query is exact, whatever lies in the credits. */
static void EV_2_a_query_is_exact_to_the_page(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    tide_address base = 0;
    uint64_t bytes = limit * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    uint64_t at = 0;
    for (unsigned percent = 50; percent <= 90; percent += 40) {
        const uint64_t until = limit * percent / 100;
        commit_at(space, base + at * PG, until - 20 - statistics_now(fixture).commit_total_pages);
        at = space_now(space).private_pages;
        unsigned changes = 0;
        for (unsigned i = 0; i < 40; i++, at++) {
            const bool before = event_set(fixture, percent == 50 ? TIDE_EVENT_LOW_COMMIT : TIDE_EVENT_HIGH_COMMIT);
            commit_at(space, base + at * PG, 1);
            assert_commit_events(fixture);
            changes += event_set(fixture, percent == 50 ? TIDE_EVENT_LOW_COMMIT : TIDE_EVENT_HIGH_COMMIT) != before;
        }
        assert_int_equal(changes, 1);
    }
    fixture_close(fixture);
}

/* ---- arguments -------------------------------------------------------------------------------------------------- */

static void illegal_arguments_are_refused(void **state)
{
    struct fixture *fixture = *state;
    bool set;
    int fd = -7;
    fixture_open(fixture, FRAMES);
    assert_status(tide_memory_event_fd(NULL, TIDE_EVENT_LOW_MEMORY, &fd), TIDE_INVALID_HANDLE);
    assert_status(tide_memory_event_query(NULL, TIDE_EVENT_LOW_MEMORY, &set), TIDE_INVALID_HANDLE);
    assert_status(tide_memory_event_fd(fixture->engine, (tide_memory_event)6, &fd), TIDE_INVALID_PARAMETER);
    assert_non_null(strstr(tide_last_error()->message, "6"));
    assert_status(tide_memory_event_query(fixture->engine, (tide_memory_event)-1, &set), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_event_fd(fixture->engine, TIDE_EVENT_LOW_MEMORY, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_event_query(fixture->engine, TIDE_EVENT_LOW_MEMORY, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_thresholds_get(fixture->engine, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_thresholds_get(NULL, &(tide_memory_thresholds){ 0 }), TIDE_INVALID_HANDLE);
    assert_int_equal(fd, -7);
    fixture_close(fixture);
}

static void illegal_thresholds_are_refused(void **state)
{
    struct fixture *fixture = *state;
    const struct {
        uint64_t low, high;
        unsigned low_percent, high_percent;
        const char *value;
    } rows[] = {
        { FRAMES + 1, 0, 0, 0, "1001" }, { 0, FRAMES + 1, 0, 0, "1001" }, { 200, 199, 0, 0, "199" },
        { 0, 0, 0, 101, "101" },         { 0, 0, 95, 0, "95" },           { 0, 0, 60, 50, "60" },
    };
    fixture->config.memory_bytes = (uint64_t)FRAMES * PG;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        tide_engine *engine = NULL;
        fixture->config.low_memory_event_pages = rows[i].low;
        fixture->config.high_memory_event_pages = rows[i].high;
        fixture->config.low_commit_event_percent = rows[i].low_percent;
        fixture->config.high_commit_event_percent = rows[i].high_percent;
        assert_status(tide_engine_open(&fixture->config, &engine), TIDE_INVALID_PARAMETER);
        assert_null(engine);
        assert_non_null(strstr(tide_last_error()->message, rows[i].value));
    }
}

/* The descriptors go with the engine, and a program without events has none. */
static void descriptors_live_as_long_as_the_engine(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    int fds[TIDE_MEMORY_EVENT_COUNT];
    for (unsigned i = 0; i < TIDE_MEMORY_EVENT_COUNT; i++) {
        fds[i] = event_fd(fixture, (tide_memory_event)i);
        assert_true((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0);
    }
    fixture_close(fixture);
    for (unsigned i = 0; i < TIDE_MEMORY_EVENT_COUNT; i++)
        assert_int_equal(fcntl(fds[i], F_GETFD), -1);
}

static const struct CMUnitTest memory_events[] = {
    API_TEST(EV_1_low_and_high_memory_follow_available_pages),
    API_TEST(EV_1_written_pages_are_available),
    API_TEST(EV_1_default_thresholds),
    API_TEST(EV_1_descriptors_agree_in_the_end_with_worker_threads),
    API_TEST(EV_2_low_high_and_maximum_commit),
    API_TEST(EV_2_high_commit_alone_while_a_page_file_can_grow),
    API_TEST(EV_2_a_query_is_exact_to_the_page),
    API_TEST(illegal_arguments_are_refused),
    API_TEST(illegal_thresholds_are_refused),
    API_TEST(descriptors_live_as_long_as_the_engine),
};

API_MAIN(memory_events)
