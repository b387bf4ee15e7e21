/*
 * Acceptance cases of the counters (nt-behaviour 28: CT-1 to CT-5): the matrix of use by state, snapshots that agree
 * with themselves, counters that lose nothing, pages one by one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tide_use_matrix matrix_now(const struct fixture *fixture)
{
    static tide_use_matrix matrix;
    assert_success(tide_use_matrix_get(fixture->engine, &matrix));
    /* Rows and columns always add up, to all frames. */
    uint64_t total = 0;
    for (unsigned u = 0; u < TIDE_USE_COUNT; u++) {
        uint64_t row = 0;
        for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++)
            row += matrix.cells[u][s];
        assert_int_equal(matrix.row_totals[u], row);
        total += row;
    }
    for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++) {
        uint64_t column = 0;
        for (unsigned u = 0; u < TIDE_USE_COUNT; u++)
            column += matrix.cells[u][s];
        assert_int_equal(matrix.column_totals[s], column);
    }
    assert_int_equal(matrix.total, total);
    assert_int_equal(total, fixture->at_open.total_pages);
    return matrix;
}

/* The whole matrix, cell by cell: what is not named here must be 0. */
struct expected {
    uint64_t active, standby, modified, transition, tables, large, zeroed, free;
};

static void assert_matrix(const struct fixture *fixture, const struct expected *e)
{
    const tide_use_matrix now = matrix_now(fixture);
    uint64_t cells[TIDE_USE_COUNT][TIDE_FRAME_STATE_COUNT] = { { 0 } };
    cells[TIDE_USE_PROCESS_PRIVATE][TIDE_FRAME_ACTIVE] = e->active;
    cells[TIDE_USE_PROCESS_PRIVATE][TIDE_FRAME_STANDBY] = e->standby;
    cells[TIDE_USE_PROCESS_PRIVATE][TIDE_FRAME_MODIFIED] = e->modified;
    cells[TIDE_USE_PROCESS_PRIVATE][TIDE_FRAME_TRANSITION] = e->transition;
    cells[TIDE_USE_PAGE_TABLE][TIDE_FRAME_ACTIVE] = e->tables;
    cells[TIDE_USE_LARGE_PAGE][TIDE_FRAME_ACTIVE] = e->large;
    cells[TIDE_USE_UNUSED][TIDE_FRAME_ZEROED] = e->zeroed;
    cells[TIDE_USE_UNUSED][TIDE_FRAME_FREE] = e->free;
    for (unsigned u = 0; u < TIDE_USE_COUNT; u++) {
        for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++) {
            if (now.cells[u][s] != cells[u][s])
                fail_msg("%s, %s: %llu, expected %llu", tide_use_name((tide_use)u),
                         tide_frame_state_name((tide_frame_state)s), (unsigned long long)now.cells[u][s],
                         (unsigned long long)cells[u][s]);
        }
    }
}

enum { FRAMES = 4000, SLOTS = 3000 };

static void CT_1_every_cell_of_a_scripted_scenario(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    struct expected e = { .zeroed = FRAMES };
    assert_matrix(fixture, &e);

    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 2000);
    stamp_pages(space, base, 1000, 1, 1); /* 1,000 private dirty */
    e.active = 1000;
    e.tables = statistics_now(fixture).table_pages;
    e.zeroed = FRAMES - 1000 - e.tables;
    assert_matrix(fixture, &e);

    tide_pin *pin;
    assert_success(tide_pin_create(space, base, 32 * PG, TIDE_ACCESS_READ, &pin)); /* 32 as a driver has them */
    assert_matrix(fixture, &e);
    trim_all(space);
    e.active = 0;
    e.modified = 968;
    e.transition = 32;
    assert_matrix(fixture, &e);
    write_modified(fixture);
    e.modified = 0;
    e.standby = 968;
    assert_matrix(fixture, &e);
    const tide_use_matrix standby = matrix_now(fixture);
    for (unsigned p = 0; p < 8; p++)
        assert_int_equal(standby.standby[p], p == 5 ? 968 : 0);

    touch_pages(space, base + 100 * PG, 200, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    e.active = 200;
    e.standby -= 200;
    assert_matrix(fixture, &e);
    tide_pin_destroy(pin);
    e.transition = 0;
    e.modified = 32;
    assert_matrix(fixture, &e);
    region_decommit(space, base + 500 * PG, 50); /* on standby */
    e.standby -= 50;
    e.free = 50;
    assert_matrix(fixture, &e);
    empty_standby(fixture);
    e.free += e.standby;
    const uint64_t repurposed = e.standby;
    e.standby = 0;
    assert_matrix(fixture, &e);
    assert_int_equal(matrix_now(fixture).repurposed[5], repurposed);
    assert_int_equal(statistics_now(fixture).transition_pages_repurposed, repurposed);

    zero_free(fixture);
    tide_address large = 0;
    uint64_t bytes = TIDE_LARGE_PAGE_BYTES;
    assert_success(tide_virtual_alloc(space, &large, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                                      TIDE_PAGE_READWRITE));
    trim_all(space);       /* which takes no large page */
    e.standby += e.active; /* they were read only since they were written out */
    e.active = 0;
    e.large = 512;
    e.zeroed += e.free;
    e.free = 0;
    e.zeroed -= 512 + statistics_now(fixture).table_pages - e.tables;
    e.tables = statistics_now(fixture).table_pages;
    assert_matrix(fixture, &e);
    space_close(fixture, space);
    zero_free(fixture);
    e = (struct expected){ .zeroed = FRAMES };
    assert_matrix(fixture, &e);
    fixture_close(fixture);
}

/* Nodes, shards and CPU caches make no difference to the sums; the scan agrees with the lists' own counts. */
static void CT_1_the_scan_agrees_with_the_lists(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.topology_synthetic = "numa:2 core:2 pu:1";
    fixture->config.cpu_cache_pages = 8;
    fixture->config.list_shards = 4;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 1500);
    touch_pages(space, base, 1500, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_trim(space, 1000, NULL));
    for (unsigned node = 0; node < 2; node++)
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, node, 200, NULL));
    const tide_use_matrix matrix = matrix_now(fixture);
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(matrix.column_totals[TIDE_FRAME_ZEROED], now.zeroed_pages);
    assert_int_equal(matrix.column_totals[TIDE_FRAME_FREE], now.free_pages);
    assert_int_equal(matrix.column_totals[TIDE_FRAME_MODIFIED], now.modified_pages);
    assert_int_equal(matrix.column_totals[TIDE_FRAME_ACTIVE], now.active_pages);
    assert_int_equal(matrix.column_totals[TIDE_FRAME_STANDBY],
                     now.standby_reserve_pages + now.standby_normal_pages + now.standby_core_pages);
    assert_true(matrix.column_totals[TIDE_FRAME_STANDBY] >= 100);
    assert_int_equal(matrix.cells[TIDE_USE_PROCESS_PRIVATE][TIDE_FRAME_ACTIVE], 500);
    assert_int_equal(matrix.cells[TIDE_USE_PAGE_TABLE][TIDE_FRAME_ACTIVE], now.table_pages);
    fixture_close(fixture);
}

static void CT_2_a_trim_moves_active_pages_cell_by_cell(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 1000);
    stamp_pages(space, base, 1000, 1, 1);
    trim_all(space);
    write_modified(fixture);
    touch_pages(space, base, 400, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    touch_pages(space, base + 400 * PG, 600, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_TRANSITION);
    struct expected e = { .active = 1000, .tables = statistics_now(fixture).table_pages };
    e.zeroed = FRAMES - 1000 - e.tables;
    assert_matrix(fixture, &e);
    trim_all(space);
    e.active = 0;
    e.standby = 400;
    e.modified = 600;
    assert_matrix(fixture, &e);
    check_pages(space, base, 1000, 1, 1);
    fixture_close(fixture);
}

static void the_matrix_prints_in_columns(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    touch_pages(space, region_new(space, 123), 123, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    const tide_use_matrix matrix = matrix_now(fixture);
    const size_t length = tide_use_matrix_print(&matrix, NULL, 0);
    char *text = malloc(length + 1);
    assert_non_null(text);
    assert_int_equal(tide_use_matrix_print(&matrix, text, length + 1), length);
    assert_int_equal(strlen(text), length);
    /* A head, 14 uses, the total: all lines as long as the head, a row begins with its name. */
    size_t width = 0;
    char *line = text;
    for (unsigned i = 0; i < 2 + TIDE_USE_COUNT; i++) {
        const size_t here = strcspn(line, "\n");
        width = i == 0 ? here : width;
        assert_int_equal(here, width);
        if (i >= 1 && i <= TIDE_USE_COUNT) {
            const char *name = tide_use_name((tide_use)(i - 1));
            assert_memory_equal(line, name, strlen(name));
            unsigned long total;
            assert_int_equal(sscanf(line + 17, "%lu", &total), 1);
            assert_int_equal(total, matrix.row_totals[i - 1]);
        }
        line += here + 1;
    }
    assert_non_null(strstr(text, "Repurposed"));
    /* Too little room: as much as fits, ended by a 0. */
    char few[20];
    memset(few, 'x', sizeof(few));
    assert_int_equal(tide_use_matrix_print(&matrix, few, 10), length);
    assert_memory_equal(few, text, 9);
    assert_int_equal(few[9], 0);
    assert_int_equal(few[10], 'x');
    assert_int_equal(tide_use_matrix_print(NULL, few, 10), 0);
    free(text);
    fixture_close(fixture);
}

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

static uint64_t standby_sum(const tide_statistics *s)
{
    uint64_t sum = 0;
    for (unsigned p = 0; p < 8; p++)
        sum += s->standby_pages[p];
    return sum;
}

struct moving {
    struct fixture *fixture;
    tide_space *space;
    tide_address base;
    atomic_uint left;
};

enum { MOVERS = 4, MOVER_PAGES = 200, MOVER_ROUNDS = 60 };

/* The first member takes snapshots while the others move pages from list to list. */
static void mover(struct crew_member *member)
{
    struct moving *moving = member->context;
    if (member->index == 0) {
        while (atomic_load(&moving->left) > 0) {
            tide_statistics now = { .struct_bytes = sizeof(now) };
            CREW_CHECK(member, tide_statistics_get(moving->fixture->engine, &now) == TIDE_SUCCESS);
            CREW_CHECK(member, now.available_pages == now.zeroed_pages + now.free_pages + standby_sum(&now));
            CREW_CHECK(member, now.standby_reserve_pages == now.standby_pages[0] + now.standby_pages[1] +
                                                                now.standby_pages[2] + now.standby_pages[3]);
            CREW_CHECK(member, now.standby_normal_pages == now.standby_pages[4] + now.standby_pages[5]);
            CREW_CHECK(member, now.standby_core_pages == now.standby_pages[6] + now.standby_pages[7]);
        }
        return;
    }
    const tide_address base = moving->base + (member->index - 1) * (tide_address)MOVER_PAGES * PG;
    for (unsigned round = 0; round < MOVER_ROUNDS; round++) {
        for (unsigned i = 0; i < MOVER_PAGES; i++)
            CREW_NOTE(member, !tide_failed(tide_touch(moving->space, base + i * PG, TIDE_ACCESS_WRITE)));
        CREW_NOTE(member, tide_working_set_trim(moving->space, MOVER_PAGES, NULL) == TIDE_SUCCESS);
        CREW_NOTE(member, tide_engine_empty(moving->fixture->engine,
                                            round % 2 != 0 ? TIDE_EMPTY_MODIFIED : TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
    }
    atomic_fetch_sub(&moving->left, 1);
}

static void CT_3_available_is_the_sum_of_its_lists_in_every_snapshot(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 8;
    fixture->config.list_shards = 4;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    struct moving moving = { .fixture = fixture, .space = space_new(fixture), .left = MOVERS - 1 };
    moving.base = region_new(moving.space, (MOVERS - 1) * MOVER_PAGES);
    crew_run(MOVERS, mover, &moving);

    /* And quiet: all lists together are all frames, and the structures of NT say the same. */
    for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
        assert_success(tide_worker_hold(fixture->engine, (tide_worker)worker, true));
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.available_pages + now.modified_pages + now.bad_pages + now.transition_pages + now.active_pages,
                     FRAMES);
    tide_performance_information information = { .struct_bytes = sizeof(information) };
    assert_success(tide_performance_information_get(fixture->engine, &information));
    assert_int_equal(information.physical_available, now.available_pages);
    assert_int_equal(information.physical_total, FRAMES);
    assert_int_equal(information.system_cache, standby_sum(&now));
    assert_int_equal(information.commit_total, now.commit_total_pages);
    assert_int_equal(information.commit_limit, now.commit_limit_pages);
    assert_int_equal(information.commit_peak, now.commit_peak_pages);
    assert_int_equal(information.page_bytes, PG);
    assert_int_equal(information.space_count, 1);
    /* The movers have ended; no page file can grow, so there is no extender. */
    assert_int_equal(information.thread_count, 1 + TIDE_WORKER_COUNT - 1);
    fixture_close(fixture);
}

static void memory_status_is_that_of_the_space(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_space *other = space_new(fixture);
    const tide_address base = region_new(space, 1000);
    touch_pages(space, base, 1000, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    const tide_statistics now = statistics_now(fixture);
    tide_memory_status status = { .struct_bytes = sizeof(status) };
    assert_success(tide_memory_status_get(space, &status));
    assert_int_equal(status.memory_load_percent, (FRAMES - now.available_pages) * 100 / FRAMES);
    assert_true(status.memory_load_percent >= 25);
    assert_int_equal(status.total_physical_bytes, FRAMES * (uint64_t)PG);
    assert_int_equal(status.available_physical_bytes, now.available_pages * PG);
    assert_int_equal(status.total_commit_bytes, now.commit_limit_pages * PG);
    assert_int_equal(status.available_commit_bytes, (now.commit_limit_pages - now.commit_total_pages) * PG);
    assert_int_equal(status.total_virtual_bytes, TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1);
    assert_int_equal(status.available_virtual_bytes, status.total_virtual_bytes - 1000 * PG);
    /* A limit of its own, as of a process in a job. */
    assert_success(tide_space_set_commit_limit(space, 1200));
    assert_success(tide_memory_status_get(space, &status));
    assert_int_equal(status.total_commit_bytes, 1200 * PG);
    assert_int_equal(status.available_commit_bytes, 200 * PG);
    assert_success(tide_space_set_commit_limit(space, 900)); /* below what it has */
    assert_success(tide_memory_status_get(space, &status));
    assert_int_equal(status.available_commit_bytes, 0);
    assert_success(tide_memory_status_get(other, &status));
    assert_int_equal(status.total_commit_bytes, now.commit_limit_pages * PG);
    assert_int_equal(status.available_virtual_bytes, status.total_virtual_bytes);
    fixture_close(fixture);
}

static void peaks_stay(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address first = region_new(space, 160);
    const tide_address second = region_new(space, 320);
    touch_pages(space, second, 320, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    tide_space_statistics now = space_now(space);
    assert_int_equal(now.private_pages, 480);
    assert_int_equal(now.peak_private_pages, 480);
    assert_int_equal(now.peak_virtual_bytes, 480 * PG);
    region_decommit(space, second, 320);
    assert_success(tide_virtual_free(space, first, 0, TIDE_MEM_RELEASE));
    now = space_now(space);
    assert_int_equal(now.private_pages, 0);
    assert_int_equal(now.virtual_bytes, 320 * PG);
    assert_int_equal(now.working_set_pages, 0);
    assert_int_equal(now.peak_private_pages, 480);
    assert_int_equal(now.peak_virtual_bytes, 480 * PG);
    assert_int_equal(now.peak_working_set_pages, 320);
    region_new(space, 640);
    now = space_now(space);
    assert_int_equal(now.peak_private_pages, 640);
    assert_int_equal(now.peak_virtual_bytes, 960 * PG);
    assert_true(now.id != space_now(space_new(fixture)).id);
    fixture_close(fixture);
}

static void rates_are_differences_per_virtual_second(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 1000);
    const tide_statistics before = statistics_now(fixture);
    tide_rates rates;
    assert_status(tide_statistics_rates(&before, &before, &rates), TIDE_INVALID_PARAMETER); /* no time */
    stamp_pages(space, base, 1000, 1, 1);
    page_out(fixture, space);
    touch_pages(space, base, 1, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_success(tide_clock_advance(fixture->engine, 2500));
    const tide_statistics after = statistics_now(fixture);
    assert_success(tide_statistics_rates(&before, &after, &rates));
    assert_true(rates.seconds == 2.5);
    assert_true(rates.demand_zero_faults == 400);
    assert_true(rates.hard_faults == 0.4);
    assert_true(rates.page_faults == 400.4);
    assert_true(rates.pages_output == 400);
    assert_true(rates.page_writes == (double)(after.page_writes - before.page_writes) / 2.5);
    assert_true(rates.page_writes > 0 && rates.page_writes < 400);
    assert_true(rates.page_reads == 0.4);
    assert_true(rates.pages_input == (double)after.pages_input / 2.5);
    assert_true(rates.transition_pages_repurposed == 400);
    assert_true(rates.pages_trimmed == 400);
    assert_true(rates.transition_faults == 0);
    assert_status(tide_statistics_rates(&after, &before, &rates), TIDE_INVALID_PARAMETER);
    assert_status(tide_statistics_rates(NULL, &after, &rates), TIDE_INVALID_PARAMETER);
    assert_status(tide_statistics_rates(&before, &after, NULL), TIDE_INVALID_PARAMETER);
    tide_statistics odd = after;
    odd.struct_bytes = 8;
    assert_status(tide_statistics_rates(&before, &odd, &rates), TIDE_INVALID_PARAMETER);
    odd = after;
    odd.faults.demand_zero = 0; /* some other engine's */
    tide_statistics many = before;
    many.faults.demand_zero = 5;
    assert_status(tide_statistics_rates(&many, &odd, &rates), TIDE_INVALID_PARAMETER);
    fixture_close(fixture);
}

/* ---- CT-4 ------------------------------------------------------------------------------------------------------- */

enum { COUNTERS_THREADS = 64, COUNTERS_PAGES = 64, COUNTERS_ROUNDS = 40, COUNTERS_SPACES = 2 };

struct counting {
    struct fixture *fixture;
    tide_space *spaces[COUNTERS_SPACES];
    tide_address base;
    atomic_uint left;
    atomic_ulong demand_zero, violations, committed;
};

static bool grew(const tide_statistics *a, const tide_statistics *b)
{
    const tide_fault_counters *f = &a->faults, *g = &b->faults;
    return f->page_faults <= g->page_faults && f->demand_zero <= g->demand_zero && f->transition <= g->transition &&
           f->transition_standby <= g->transition_standby && f->transition_modified <= g->transition_modified &&
           f->transition_write_in_progress <= g->transition_write_in_progress && f->hard <= g->hard &&
           f->collided <= g->collided && f->access_violations <= g->access_violations &&
           f->in_page_errors <= g->in_page_errors && a->pages_input <= b->pages_input &&
           a->page_reads <= b->page_reads && a->pages_output <= b->pages_output && a->page_writes <= b->page_writes &&
           a->transition_pages_repurposed <= b->transition_pages_repurposed && a->trimmed <= b->trimmed &&
           a->inline_zeroed + a->background_zeroed <= b->inline_zeroed + b->background_zeroed &&
           a->commit_peak_pages <= b->commit_peak_pages && a->timestamp_ns <= b->timestamp_ns;
}

/* The last member watches that nothing goes back; the others count what they do. */
static void counter(struct crew_member *member)
{
    struct counting *counting = member->context;
    if (member->index == COUNTERS_THREADS) {
        tide_statistics last = { .struct_bytes = sizeof(last) }, now = last;
        CREW_CHECK(member, tide_statistics_get(counting->fixture->engine, &last) == TIDE_SUCCESS);
        while (atomic_load(&counting->left) > 0) {
            CREW_CHECK(member, tide_statistics_get(counting->fixture->engine, &now) == TIDE_SUCCESS);
            CREW_CHECK(member, grew(&last, &now));
            last = now;
        }
        return;
    }
    tide_space *space = counting->spaces[member->index % COUNTERS_SPACES];
    const tide_address base = counting->base + member->index / COUNTERS_SPACES * (tide_address)COUNTERS_PAGES * PG;
    unsigned long demand_zero = 0, violations = 0, committed = 0;
    for (unsigned round = 0; round < COUNTERS_ROUNDS; round++) {
        tide_address at = base;
        uint64_t bytes = COUNTERS_PAGES * PG;
        CREW_NOTE(member, tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
        committed += COUNTERS_PAGES;
        for (unsigned i = 0; i < COUNTERS_PAGES; i++)
            demand_zero += tide_touch(space, base + i * PG, TIDE_ACCESS_WRITE) == TIDE_PAGE_FAULT_DEMAND_ZERO;
        CREW_NOTE(member, tide_virtual_free(space, base, bytes, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
        violations += tide_touch(space, base, TIDE_ACCESS_READ) == TIDE_ACCESS_VIOLATION;
    }
    atomic_fetch_add(&counting->demand_zero, demand_zero);
    atomic_fetch_add(&counting->violations, violations);
    atomic_fetch_add(&counting->committed, committed);
    atomic_fetch_sub(&counting->left, 1);
}

static void CT_4_no_increment_is_lost_with_64_threads(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    static struct counting counting;
    memset(&counting, 0, sizeof(counting));
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 8;
    fixture->config.list_shards = 4;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, 6000); /* enough for all at once */
    counting.fixture = fixture;
    counting.left = COUNTERS_THREADS;
    for (unsigned i = 0; i < COUNTERS_SPACES; i++) {
        uint64_t bytes = COUNTERS_THREADS / COUNTERS_SPACES * COUNTERS_PAGES * (uint64_t)PG;
        counting.spaces[i] = space_new(fixture);
        tide_address base = TIDE_LOWEST_ADDRESS;
        assert_success(tide_virtual_alloc(counting.spaces[i], &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
        counting.base = base;
    }
    crew_run(COUNTERS_THREADS + 1, counter, &counting);
    const uint64_t all = (uint64_t)COUNTERS_THREADS * COUNTERS_ROUNDS;
    assert_int_equal(atomic_load(&counting.demand_zero), all * COUNTERS_PAGES);
    assert_int_equal(atomic_load(&counting.violations), all);
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.faults.demand_zero, all * COUNTERS_PAGES);
    assert_int_equal(now.faults.access_violations, all);
    assert_int_equal(now.faults.page_faults, now.faults.demand_zero + now.faults.access_violations +
                                                 now.faults.transition + now.faults.hard + now.faults.collided);
    uint64_t by_space = 0;
    for (unsigned i = 0; i < COUNTERS_SPACES; i++) {
        const tide_space_statistics one = space_now(counting.spaces[i]);
        assert_int_equal(one.faults.demand_zero, all * COUNTERS_PAGES / COUNTERS_SPACES);
        assert_int_equal(one.working_set_pages, 0);
        assert_int_equal(one.private_pages, 0);
        assert_between(one.peak_private_pages, COUNTERS_PAGES, COUNTERS_THREADS / COUNTERS_SPACES * COUNTERS_PAGES);
        by_space += one.faults.page_faults;
    }
    assert_int_equal(by_space, now.faults.page_faults);
    fixture_close(fixture);
    assert_true(atomic_load(&counting.committed) != 0);
}

/* ---- CT-5 ------------------------------------------------------------------------------------------------------- */

static tide_working_set_entry entry_of(tide_space *space, tide_address address)
{
    tide_working_set_entry entry;
    memset(&entry, 0xAA, sizeof(entry));
    entry.address = address;
    assert_success(tide_working_set_query(space, &entry, 1));
    assert_int_equal(entry.address, address);
    return entry;
}

static void assert_invalid(tide_space *space, tide_address address)
{
    const tide_working_set_entry entry = entry_of(space, address);
    assert_false(entry.valid);
    assert_false(entry.shared);
    assert_false(entry.bad);
    assert_int_equal(entry.protection, 0);
    assert_int_equal(entry.share_count, 0);
    assert_false(entry.locked);
    assert_false(entry.large_page);
    assert_int_equal(entry.node, 0);
    assert_int_equal(entry.priority, 0);
}

static void CT_5_pages_of_a_working_set_one_by_one(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 64 * PG;
    assert_success(
        tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, 1));
    assert_invalid(space, base);         /* never touched */
    assert_invalid(space, base + bytes); /* in no region */
    assert_success(stamp_put(space, base, 1, 1));
    tide_working_set_entry entry = entry_of(space, base + 77);
    assert_true(entry.valid);
    assert_false(entry.shared);
    assert_int_equal(entry.share_count, 1);
    assert_int_equal(entry.protection, TIDE_PAGE_READWRITE);
    assert_int_equal(entry.node, 1);
    assert_int_equal(entry.priority, 5);
    assert_false(entry.locked || entry.large_page || entry.bad);

    assert_success(tide_space_set_priority(space, 2));
    assert_status(tide_touch(space, base + PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(entry_of(space, base + PG).priority, 2);
    tide_address executable = base + 2 * PG;
    uint64_t one = PG;
    assert_success(tide_virtual_alloc(space, &executable, &one, TIDE_MEM_COMMIT, TIDE_PAGE_EXECUTE_READ));
    assert_status(tide_touch(space, executable, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(entry_of(space, executable).protection, TIDE_PAGE_EXECUTE_READ);

    /* An array, whose order is kept; then all of them out of the working set, step by step. */
    tide_working_set_entry entries[5] = {
        { .address = base + 2 * PG }, { .address = base + 40 * PG }, { .address = base },
        { .address = base + PG },     { .address = base },
    };
    assert_success(tide_working_set_query(space, entries, 5));
    assert_true(entries[0].valid && !entries[1].valid && entries[2].valid && entries[3].valid && entries[4].valid);
    assert_int_equal(entries[0].protection, TIDE_PAGE_EXECUTE_READ);
    assert_int_equal(entries[3].priority, 2);
    tide_working_set_statistics parts;
    assert_success(tide_working_set_statistics_get(space, &parts));
    assert_int_equal(parts.total_pages, 3);
    assert_int_equal(parts.private_pages, 3);
    assert_int_equal(parts.shareable_pages, 0);
    assert_int_equal(parts.shared_pages, 0);
    assert_int_equal(parts.locked_pages, 0);
    assert_int_equal(parts.node_pages[1], 3);
    trim_all(space);
    assert_invalid(space, base); /* on the modified list */
    write_modified(fixture);
    assert_invalid(space, base); /* on standby */
    empty_standby(fixture);
    assert_invalid(space, base); /* in the page file */
    assert_success(stamp_check(space, base, 1, 1));
    assert_true(entry_of(space, base).valid);
    assert_int_equal(space_now(space).faults.hard, 1); /* no query faulted anything in */

    tide_working_set_entry high[2] = { { .address = base }, { .address = TIDE_HIGHEST_ADDRESS + 1 } };
    high[0].valid = false;
    assert_status(tide_working_set_query(space, high, 2), TIDE_INVALID_PARAMETER);
    assert_false(high[0].valid); /* nothing is filled in */
    assert_status(tide_working_set_query(space, NULL, 1), TIDE_INVALID_PARAMETER);
    assert_success(tide_working_set_query(space, NULL, 0));
    assert_status(tide_working_set_query(NULL, entries, 1), TIDE_INVALID_HANDLE);
    fixture_close(fixture);
}

static void CT_5_a_large_page_is_valid_and_in_no_working_set(void **state)
{
    SOFT_SPACES_ONLY(ONLY_LARGE);
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = TIDE_LARGE_PAGE_BYTES;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                                      TIDE_PAGE_READWRITE));
    for (unsigned i = 0; i < 512; i += 73) {
        const tide_working_set_entry entry = entry_of(space, base + i * PG);
        assert_true(entry.valid && entry.large_page && !entry.shared && !entry.bad);
        assert_int_equal(entry.protection, TIDE_PAGE_READWRITE);
        assert_int_equal(entry.share_count, 1);
        tide_frame_info frame;
        assert_success(tide_frame_query(fixture->engine, page_now(space, base + i * PG).frame, &frame));
        assert_int_equal(frame.use, TIDE_USE_LARGE_PAGE);
        assert_int_equal(frame.address, base + i * PG);
        assert_int_equal(frame.space, space_now(space).id);
    }
    tide_working_set_statistics parts;
    assert_success(tide_working_set_statistics_get(space, &parts));
    assert_int_equal(parts.total_pages, 0);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(space_now(space).private_pages, 512);
    fixture_close(fixture);
}

static void the_parts_of_a_large_working_set_add_up(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 2000);
    touch_pages(space, base, 2000, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    tide_working_set_statistics parts;
    assert_success(tide_working_set_statistics_get(space, &parts));
    assert_int_equal(parts.total_pages, space_now(space).working_set_pages);
    assert_int_equal(parts.private_pages + parts.shareable_pages, parts.total_pages);
    assert_int_equal(parts.node_pages[0] + parts.node_pages[1], 2000);
    /* More than a thousand entries in one call. */
    tide_working_set_entry *entries = calloc(2000, sizeof(*entries));
    assert_non_null(entries);
    for (unsigned i = 0; i < 2000; i++)
        entries[i].address = base + i * PG;
    assert_success(tide_working_set_query(space, entries, 2000));
    uint64_t on_one = 0;
    for (unsigned i = 0; i < 2000; i++) {
        assert_true(entries[i].valid);
        on_one += entries[i].node;
    }
    assert_int_equal(on_one, parts.node_pages[1]);
    free(entries);
    fixture_close(fixture);
}

/* ---- frames one by one ------------------------------------------------------------------------------------------ */

static tide_frame_info frame_now(const struct fixture *fixture, uint64_t frame)
{
    tide_frame_info info;
    memset(&info, 0xAA, sizeof(info));
    assert_success(tide_frame_query(fixture->engine, frame, &info));
    return info;
}

static void every_frame_knows_its_owner(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *spaces[2] = { space_new(fixture), space_new(fixture) };
    tide_address bases[2];
    /* Far apart in address, so that all four digits of a page number count. */
    bases[0] = region_new_at(spaces[0], 0x10000, 300);
    bases[1] = region_new_at(spaces[1], 0x5A3C12340000, 300);
    for (unsigned s = 0; s < 2; s++)
        stamp_pages(spaces[s], bases[s], 300, s, 1);
    assert_success(tide_working_set_trim(spaces[0], 200, NULL));
    write_modified(fixture);
    uint64_t found = 0;
    for (unsigned s = 0; s < 2; s++) {
        for (unsigned i = 0; i < 300; i++) {
            const tide_page_info page = page_now(spaces[s], bases[s] + i * PG);
            const tide_frame_info frame = frame_now(fixture, page.frame);
            assert_int_equal(frame.space, space_now(spaces[s]).id);
            assert_int_equal(frame.address, bases[s] + i * PG);
            assert_int_equal(frame.use, TIDE_USE_PROCESS_PRIVATE);
            assert_int_equal(frame.state, page.valid ? TIDE_FRAME_ACTIVE : TIDE_FRAME_STANDBY);
            assert_int_equal(frame.share_count, page.valid);
            assert_int_equal(frame.reference_count, page.valid);
            assert_int_equal(frame.dirty, page.dirty);
            assert_int_equal(frame.node, page.node);
            assert_int_equal(frame.priority, 5);
            assert_int_equal(frame.table_level, 0);
            assert_int_equal(frame.slot, page.slot);
            assert_int_equal(frame.slot != 0, !page.valid);
            assert_false(frame.io_in_progress);
            found++;
        }
    }
    assert_int_equal(found, 600);
    /* All others: tables with level and span, or nobody's. */
    uint64_t levels[5] = { 0 }, unowned = 0, absent = 0;
    const uint64_t end = tide_frame_number_end(fixture->engine);
    for (uint64_t f = 0; f < end; f++) {
        tide_frame_info frame;
        if (tide_frame_query(fixture->engine, f, &frame) != TIDE_SUCCESS) {
            absent++;
            continue;
        }
        levels[frame.table_level]++;
        if (frame.use == TIDE_USE_PAGE_TABLE) {
            assert_between(frame.table_level, 1, 4);
            const unsigned s = frame.space == space_now(spaces[0]).id ? 0 : 1;
            assert_int_equal(frame.space, space_now(spaces[s]).id);
            const uint64_t span = (uint64_t)PG << (9 * frame.table_level);
            assert_int_equal(frame.address % span, 0); /* it maps a part of the only region, which crosses 2 MiB once */
            assert_true(frame.address < bases[s] + 300 * PG && frame.address + span > bases[s]);
        } else if (frame.use == TIDE_USE_UNUSED) {
            unowned++;
            assert_int_equal(frame.space, 0);
            assert_int_equal(frame.address, 0);
        }
    }
    assert_int_equal(levels[4], 2);
    assert_int_equal(levels[1] + levels[2] + levels[3] + levels[4], statistics_now(fixture).table_pages);
    assert_int_equal(unowned, FRAMES - 600 - statistics_now(fixture).table_pages);
    assert_int_equal(absent, end - FRAMES);
    tide_frame_info info;
    assert_status(tide_frame_query(fixture->engine, end, &info), TIDE_INVALID_PARAMETER);
    assert_status(tide_frame_query(fixture->engine, UINT64_MAX, &info), TIDE_INVALID_PARAMETER);
    assert_status(tide_frame_query(fixture->engine, 0, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_frame_query(NULL, 0, &info), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_frame_number_end(NULL), 0);
    fixture_close(fixture);
}

/* A page that was deleted under a pin has no owner any more, and its frame is not free yet. */
static void a_deleted_page_under_a_pin_has_no_owner(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 16);
    assert_success(stamp_put(space, base, 1, 1));
    const uint64_t number = page_now(space, base).frame;
    tide_pin *pin;
    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_READ, &pin));
    assert_int_equal(frame_now(fixture, number).reference_count, 2);
    region_decommit(space, base, 1);
    const tide_frame_info frame = frame_now(fixture, number);
    assert_int_equal(frame.state, TIDE_FRAME_TRANSITION);
    assert_int_equal(frame.space, 0);
    assert_int_equal(frame.reference_count, 1);
    tide_pin_destroy(pin);
    assert_int_equal(frame_now(fixture, number).use, TIDE_USE_UNUSED);
    fixture_close(fixture);
}

struct looking {
    struct fixture *fixture;
    atomic_uint left;
};

enum { LOOKERS = 4, LOOKER_PAGES = 300, LOOKER_ROUNDS = 20 };

static void space_of_a_moment(struct crew_member *member)
{
    struct looking *looking = member->context;
    tide_space *space;
    tide_address base = 0x200000;
    uint64_t bytes = LOOKER_PAGES * PG;
    CREW_CHECK(member, tide_space_create(looking->fixture->engine, &space) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                          TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
    for (unsigned i = 0; i < LOOKER_PAGES; i++)
        CREW_CHECK(member, !tide_failed(tide_touch(space, base + i * PG, TIDE_ACCESS_WRITE)));
    CREW_CHECK(member, tide_working_set_trim(space, 100, NULL) == TIDE_SUCCESS);
    tide_working_set_statistics parts;
    CREW_CHECK(member, tide_working_set_statistics_get(space, &parts) == TIDE_SUCCESS);
    CREW_CHECK(member, parts.total_pages <= LOOKER_PAGES);
    CREW_CHECK(member, tide_engine_empty(looking->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
    for (unsigned i = 0; i < LOOKER_PAGES; i += 3)
        CREW_CHECK(member, !tide_failed(tide_touch(space, base + i * PG, TIDE_ACCESS_READ)));
    CREW_CHECK(member, tide_space_destroy(space) == TIDE_SUCCESS);
}

/*
 * Spaces come and go, their pages wander, and one thread looks at every frame meanwhile: an owner is one that was
 * there.
 */
static void looker(struct crew_member *member)
{
    struct looking *looking = member->context;
    if (member->index == 0) {
        while (atomic_load(&looking->left) > 0) {
            for (uint64_t f = 0; f < FRAMES; f++) {
                tide_frame_info info;
                CREW_CHECK(member, tide_frame_query(looking->fixture->engine, f, &info) == TIDE_SUCCESS);
                if (info.use != TIDE_USE_PROCESS_PRIVATE || info.space == 0)
                    continue;
                CREW_CHECK(member, info.address >= 0x200000 && info.address < 0x200000 + LOOKER_PAGES * PG);
            }
            tide_use_matrix matrix;
            CREW_CHECK(member, tide_use_matrix_get(looking->fixture->engine, &matrix) == TIDE_SUCCESS);
            CREW_CHECK(member, matrix.total == FRAMES);
        }
        return;
    }
    for (unsigned round = 0; round < LOOKER_ROUNDS && member->failure[0] == '\0'; round++)
        space_of_a_moment(member);
    atomic_fetch_sub(&looking->left, 1);
}

static void frames_can_be_looked_at_while_they_move(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 8;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    struct looking looking = { .fixture = fixture, .left = LOOKERS - 1 };
    crew_run(LOOKERS, looker, &looking);
    fixture_close(fixture);
}

static void illegal_arguments_are_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_performance_information information = { .struct_bytes = 1 };
    tide_memory_status status = { .struct_bytes = 1 };
    tide_use_matrix matrix;
    tide_working_set_statistics parts;
    assert_status(tide_performance_information_get(NULL, &information), TIDE_INVALID_HANDLE);
    assert_status(tide_performance_information_get(fixture->engine, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_performance_information_get(fixture->engine, &information), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_status_get(NULL, &status), TIDE_INVALID_HANDLE);
    assert_status(tide_memory_status_get(space, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_memory_status_get(space, &status), TIDE_INVALID_PARAMETER);
    assert_status(tide_use_matrix_get(NULL, &matrix), TIDE_INVALID_HANDLE);
    assert_status(tide_use_matrix_get(fixture->engine, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_working_set_statistics_get(NULL, &parts), TIDE_INVALID_HANDLE);
    assert_status(tide_working_set_statistics_get(space, NULL), TIDE_INVALID_PARAMETER);
    assert_string_equal(tide_use_name((tide_use)14), "unknown");
    assert_string_equal(tide_frame_state_name((tide_frame_state)8), "unknown");
    assert_string_equal(tide_use_name(TIDE_USE_AWE), "AWE");
    assert_string_equal(tide_frame_state_name(TIDE_FRAME_MODIFIED_NO_WRITE), "Modified No-Write");
    fixture_close(fixture);
}

static const struct CMUnitTest counters[] = {
    API_TEST(CT_1_every_cell_of_a_scripted_scenario),
    API_TEST(CT_1_the_scan_agrees_with_the_lists),
    API_TEST(CT_2_a_trim_moves_active_pages_cell_by_cell),
    API_TEST(the_matrix_prints_in_columns),
    API_TEST(CT_3_available_is_the_sum_of_its_lists_in_every_snapshot),
    API_TEST(memory_status_is_that_of_the_space),
    API_TEST(peaks_stay),
    API_TEST(rates_are_differences_per_virtual_second),
    API_TEST(CT_4_no_increment_is_lost_with_64_threads),
    API_TEST(CT_5_pages_of_a_working_set_one_by_one),
    API_TEST(CT_5_a_large_page_is_valid_and_in_no_working_set),
    API_TEST(the_parts_of_a_large_working_set_add_up),
    API_TEST(every_frame_knows_its_owner),
    API_TEST(a_deleted_page_under_a_pin_has_no_owner),
    API_TEST(frames_can_be_looked_at_while_they_move),
    API_TEST(illegal_arguments_are_refused),
};

API_MAIN(counters)
