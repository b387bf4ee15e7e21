/*
 * Acceptance cases of the diagnosis (nt-behaviour 29: TL-1 to TL-5): a leak, a thrash and a stream look different in
 * the counters, and the classifier tells them apart. All in virtual time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = 4096 };

#define MIB_PAGES (1048576 / PG)

/* One leaking space and a victim that lives beside it. */
struct scenario {
    struct fixture *fixture;
    tide_space *leaker, *victim;
    tide_address next; /* of the leak */
    tide_address victim_base;
    tide_pressure_snapshot last;
};

enum { VICTIM_PAGES = 64 };

static void snapshot(struct scenario *s, tide_pressure_snapshot *out)
{
    assert_success(tide_pressure_snapshot_take(s->fixture->engine, out));
}

static void scenario_open(struct scenario *s, struct fixture *fixture, uint64_t frames, uint64_t slots)
{
    memset(s, 0, sizeof(*s));
    s->fixture = fixture;
    fixture_page_file(fixture, slots);
    fixture_open(fixture, frames);
    s->victim = space_new(fixture);
    s->victim_base = region_new(s->victim, VICTIM_PAGES);
    stamp_pages(s->victim, s->victim_base, VICTIM_PAGES / 2, 7, 1);
    s->leaker = space_new(fixture);
    s->next = space_at(s->leaker, 0x10000000);
    uint64_t bytes = 1ull << 36;
    assert_success(tide_virtual_alloc(s->leaker, &s->next, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    snapshot(s, &s->last);
}

/* What has happened since the last call. */
static tide_pressure_verdict verdict(struct scenario *s)
{
    tide_pressure_snapshot now;
    tide_pressure_verdict v;
    snapshot(s, &now);
    assert_success(tide_pressure_classify(&s->last, &now, NULL, &v));
    tide_pressure_snapshot_free(&s->last);
    s->last = now;
    assert_true(v.explanation[0] != '\0');
    assert_true(strlen(v.explanation) < sizeof(v.explanation) - 1);
    return v;
}

static void assert_kind(const tide_pressure_verdict *v, tide_pressure_kind kind)
{
    if (v->kind != kind)
        fail_msg("verdict \"%s\", expected \"%s\": %s", tide_pressure_name(v->kind), tide_pressure_name(kind),
                 v->explanation);
    assert_true((v->kinds & (1u << kind)) != 0 || kind == TIDE_PRESSURE_NONE);
}

static tide_status leak(struct scenario *s, uint64_t pages, bool touch)
{
    tide_address base = s->next;
    uint64_t bytes = pages * PG;
    const tide_status status = tide_virtual_alloc(s->leaker, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
    if (status != TIDE_SUCCESS)
        return status;
    s->next += bytes;
    return touch ? tide_touch_range(s->leaker, base, bytes, TIDE_ACCESS_WRITE) : TIDE_SUCCESS;
}

static void scenario_close(struct scenario *s)
{
    tide_pressure_snapshot_free(&s->last);
    fixture_close(s->fixture);
}

/* testlimit -m 5 for 20 virtual seconds, 5 MB each half second, looked at once a second. */
static void TL_1_an_untouched_leak_grows_private_bytes_and_nothing_else(void **state)
{
    struct scenario s;
    scenario_open(&s, *state, FRAMES, 60000);
    const tide_statistics before = statistics_now(s.fixture);
    const tide_space_statistics start = space_now(s.leaker);
    uint64_t last = start.private_pages;
    for (unsigned second = 0; second < 20; second++) {
        for (unsigned half = 0; half < 2; half++) {
            assert_success(leak(&s, 5 * MIB_PAGES, false));
            assert_success(tide_clock_advance(s.fixture->engine, 500));
            for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
                assert_success(tide_worker_step(s.fixture->engine, (tide_worker)worker, 0, 0, NULL));
        }
        const tide_space_statistics now = space_now(s.leaker);
        assert_int_equal(now.private_pages - last, 10 * MIB_PAGES); /* Private Delta Bytes */
        last = now.private_pages;
        const tide_pressure_verdict v = verdict(&s);
        assert_kind(&v, TIDE_PRESSURE_LEAK_SUSPECT);
        assert_int_equal(v.space, now.id);
        assert_int_equal(v.private_growth_pages, 10 * MIB_PAGES);
        assert_true(v.seconds == 1);
        char number[24];
        snprintf(number, sizeof(number), "%llu", (unsigned long long)v.space);
        assert_non_null(strstr(v.explanation, number));
        assert_non_null(strstr(v.explanation, "10.0 MiB"));
    }
    const tide_space_statistics end = space_now(s.leaker);
    const tide_statistics after = statistics_now(s.fixture);
    assert_int_equal(end.private_pages - start.private_pages, 51200);
    assert_int_equal(end.working_set_pages, start.working_set_pages);
    /* 200 MB, and the tables that go with them: one for each 2 MB, and a few above. */
    assert_between(after.commit_total_pages - before.commit_total_pages, 51200, 51200 + 51200 / 512 + 4);
    assert_between(before.available_pages - after.available_pages, 0, 51200 / 512 + 4);
    assert_int_equal(after.faults.page_faults, before.faults.page_faults);
    scenario_close(&s);
}

/* Up to the limit: the step fails, nobody else loses anything; and at the end all is back (TL-3). */
static void TL_2_and_3_the_limit_fails_the_leak_alone_and_its_end_brings_all_back(void **state)
{
    struct scenario s;
    scenario_open(&s, *state, FRAMES, 8192);
    const tide_statistics before = statistics_now(s.fixture);
    const tide_space_statistics victim = space_now(s.victim);
    tide_status status;
    bool leaks = false, near = false;
    do {
        status = leak(&s, MIB_PAGES, false);
        assert_success(tide_clock_advance(s.fixture->engine, 500));
        const tide_pressure_verdict v = verdict(&s);
        if (status != TIDE_SUCCESS)
            break; /* nothing grew in this step */
        leaks |= v.kind == TIDE_PRESSURE_LEAK_SUSPECT;
        near |= v.kind == TIDE_PRESSURE_COMMIT_NEAR;
        assert_int_equal(v.space, space_now(s.leaker).id);
        assert_true((v.kinds & 1u << TIDE_PRESSURE_LEAK_SUSPECT) != 0);
        assert_true(v.kind == TIDE_PRESSURE_LEAK_SUSPECT || v.kind == TIDE_PRESSURE_COMMIT_NEAR);
    } while (true);
    assert_int_equal(status, TIDE_COMMITMENT_LIMIT);
    assert_true(leaks && near);
    const tide_statistics full = statistics_now(s.fixture);
    assert_between(full.commit_total_pages, full.commit_limit_pages - MIB_PAGES - 1, full.commit_limit_pages);
    /* What others committed is theirs: touched or not. */
    check_pages(s.victim, s.victim_base, VICTIM_PAGES / 2, 7, 1);
    stamp_pages(s.victim, s.victim_base, VICTIM_PAGES, 7, 2);
    check_pages(s.victim, s.victim_base, VICTIM_PAGES, 7, 2);
    assert_int_equal(space_now(s.victim).private_pages, victim.private_pages);

    region_decommit(s.victim, s.victim_base + VICTIM_PAGES / 2 * PG, VICTIM_PAGES / 2);
    space_close(s.fixture, s.leaker);
    const tide_statistics after = statistics_now(s.fixture);
    assert_true(after.commit_total_pages <
                before.commit_total_pages); /* the leaker's root table and a half victim less */
    assert_int_equal(after.spaces, before.spaces - 1);
    assert_int_equal(after.table_pages, victim.table_pages);
    assert_int_equal(after.commit_total_pages, space_now(s.victim).private_pages + after.table_pages);
    assert_int_equal(after.available_pages, FRAMES - VICTIM_PAGES / 2 - after.table_pages);
    assert_int_equal(after.page_file_used_slots, 0);
    assert_int_equal(after.standby_reserve_pages + after.standby_normal_pages + after.standby_core_pages, 0);
    scenario_close(&s);
}

/*
 * testlimit -d with less memory than leak: the working set meets a plateau, pages go out, and nothing fails before the
 * limit. The working set's plateau is what makes the leak visible to the classifier.
 */
static void TL_4_a_touched_leak_fills_memory_and_then_the_page_file(void **state)
{
    struct scenario s;
    enum { SMALL = 1024, STEP = 64 };
    scenario_open(&s, *state, SMALL, 6000);
    const tide_statistics before = statistics_now(s.fixture);
    uint64_t leaked = 0, plateau = 0, suspected = 0, steps = 0, last_output = 0;
    tide_status status;
    for (;;) {
        status = leak(&s, STEP, true);
        if (status != TIDE_SUCCESS)
            break;
        leaked += STEP;
        assert_success(tide_clock_advance(s.fixture->engine, 500));
        for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
            assert_success(tide_worker_step(s.fixture->engine, (tide_worker)worker, 0, 0, NULL));
        const tide_space_statistics now = space_now(s.leaker);
        assert_true(now.working_set_pages < SMALL);
        assert_int_equal(now.private_pages, leaked);
        if (leaked < SMALL / 2)
            assert_int_equal(now.working_set_pages, leaked);
        if (leaked > 2 * SMALL) {
            assert_between(now.working_set_pages, SMALL / 2, SMALL);
            const tide_statistics all = statistics_now(s.fixture);
            plateau++;
            if (plateau % 8 == 0) { /* over a few seconds, as a diagnosis is made: the growth of both is clear then */
                const tide_pressure_verdict v = verdict(&s);
                steps++;
                suspected += (v.kinds & 1u << TIDE_PRESSURE_LEAK_SUSPECT) != 0 && v.space == now.id;
                assert_true(all.pages_output > last_output);
                last_output = all.pages_output;
            }
        } else if (leaked == 2 * SMALL) {
            tide_pressure_snapshot_free(&s.last);
            snapshot(&s, &s.last);
        }
    }
    assert_int_equal(status, TIDE_COMMITMENT_LIMIT);
    const tide_statistics after = statistics_now(s.fixture);
    assert_between(after.commit_total_pages, after.commit_limit_pages - STEP - 1, after.commit_limit_pages);
    assert_true(after.pages_output > before.pages_output + leaked - 2 * SMALL);
    assert_true(steps >= 4);
    assert_int_equal(suspected, steps);
    check_pages(s.victim, s.victim_base, VICTIM_PAGES / 2, 7, 1);
    scenario_close(&s);
}

/* One space reads through more than memory holds, at a working set of its own; memory is there for whoever wants it. */
static void TL_5_one_space_that_streams_is_no_pressure(void **state)
{
    struct scenario s;
    enum { SMALL = 2048, STREAM = 3000 };
    scenario_open(&s, *state, SMALL, 6000);
    tide_address base = s.next;
    for (unsigned i = 0; i < STREAM; i += 500) {
        assert_success(leak(&s, 500, true));
        page_out(s.fixture, s.leaker);
    }
    assert_success(tide_working_set_set_limits(s.leaker, 20, 200, TIDE_WORKING_SET_HARD_MAXIMUM));
    tide_pressure_snapshot_free(&s.last);
    snapshot(&s, &s.last);
    for (unsigned second = 0; second < 6; second++) {
        const uint64_t hard = space_now(s.leaker).faults.hard;
        for (unsigned i = 0; i < 500; i++)
            assert_false(tide_failed(tide_touch(s.leaker, base + (second * 500 + i) * PG, TIDE_ACCESS_READ)));
        assert_success(tide_clock_advance(s.fixture->engine, 1000));
        const uint64_t faults = space_now(s.leaker).faults.hard - hard;
        assert_true(faults >= 20);
        const tide_pressure_verdict v = verdict(&s);
        assert_kind(&v, TIDE_PRESSURE_STREAMING);
        assert_int_equal(v.kinds, 1u << TIDE_PRESSURE_STREAMING);
        assert_int_equal(v.space, space_now(s.leaker).id);
        assert_int_equal(v.reading_spaces, 1);
        assert_true(v.hard_faults_per_second == (double)faults);
        assert_true(v.available_pages > SMALL / 2);
        assert_non_null(strstr(v.explanation, "No pressure"));
    }
    scenario_close(&s);
}

/* Eight spaces go round and round over one and a half times the memory. */
static void TL_5_eight_spaces_over_memory_thrash(void **state)
{
    struct scenario s;
    enum { SMALL = 1024, SPACES = 8, PAGES = SMALL * 3 / 2 / SPACES };
    tide_space *spaces[SPACES];
    tide_address bases[SPACES];
    scenario_open(&s, *state, SMALL, 6000);
    for (unsigned i = 0; i < SPACES; i++) {
        spaces[i] = space_new(s.fixture);
        bases[i] = region_new(spaces[i], PAGES);
        stamp_pages(spaces[i], bases[i], PAGES, i, 1);
    }
    tide_pressure_snapshot_free(&s.last);
    snapshot(&s, &s.last);
    for (unsigned cycle = 0; cycle < 8; cycle++) {
        for (unsigned i = 0; i < SPACES; i++)
            check_pages(spaces[i], bases[i], PAGES, i, 1);
        assert_success(
            tide_clock_advance(s.fixture->engine, 250)); /* a cluster read is one fault: four rounds a second */
        const tide_pressure_verdict v = verdict(&s);
        assert_kind(&v, TIDE_PRESSURE_THRASH);
        assert_int_equal(v.kinds, 1u << TIDE_PRESSURE_THRASH);
        assert_between(v.reading_spaces, 2, SPACES);
        assert_true(v.available_pages * 10 < SMALL);
        assert_true(v.repurposed_pages > 0);
        /* The same figures, if one asks for more spaces than there are. */
        const tide_pressure_thresholds many = { .thrash_spaces = SPACES + 1 };
        tide_pressure_snapshot now = s.last;
        tide_pressure_verdict other;
        now.statistics.timestamp_ns++;
        assert_success(tide_pressure_classify(&s.last, &now, &many, &other));
        assert_kind(&other, TIDE_PRESSURE_NONE); /* nothing in between */
    }
    /* With memory for all it is over. */
    for (unsigned i = 2; i < SPACES; i++)
        space_close(s.fixture, spaces[i]);
    for (unsigned i = 0; i < 2; i++)
        check_pages(spaces[i], bases[i], PAGES, i, 1);
    tide_pressure_snapshot_free(&s.last);
    snapshot(&s, &s.last);
    for (unsigned i = 0; i < 2; i++)
        check_pages(spaces[i], bases[i], PAGES, i, 1);
    assert_success(tide_clock_advance(s.fixture->engine, 1000));
    const tide_pressure_verdict v = verdict(&s);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    scenario_close(&s);
}

/* ---- the classifier alone, on made-up snapshots ----------------------------------------------------------------- */

struct made_up {
    tide_pressure_snapshot before, after;
    tide_space_sample spaces[2][3];
};

/* Three quiet spaces, 10 seconds, half of 10,000 frames available, a tenth of the commit used. */
static void make_up(struct made_up *m)
{
    memset(m, 0, sizeof(*m));
    for (unsigned i = 0; i < 3; i++) {
        m->spaces[0][i] = (tide_space_sample){
            .id = 10 + i, .working_set_pages = 500, .private_pages = 1000, .peak_private_pages = 1000
        };
        m->spaces[1][i] = m->spaces[0][i];
    }
    m->before.statistics = (tide_statistics){ .struct_bytes = sizeof(tide_statistics),
                                              .total_pages = 10000,
                                              .available_pages = 5000,
                                              .commit_total_pages = 3000,
                                              .commit_limit_pages = 20000,
                                              .commit_limit_maximum_pages = 30000,
                                              .timestamp_ns = 1 };
    m->after.statistics = m->before.statistics;
    m->after.statistics.timestamp_ns += 10000000000ull;
    m->before.spaces = m->spaces[0];
    m->after.spaces = m->spaces[1];
    m->before.space_count = m->after.space_count = 3;
}

static tide_pressure_verdict judge(const struct made_up *m, const tide_pressure_thresholds *thresholds)
{
    tide_pressure_verdict v;
    assert_success(tide_pressure_classify(&m->before, &m->after, thresholds, &v));
    return v;
}

static void private_grows(struct made_up *m, unsigned space, uint64_t by)
{
    m->spaces[1][space].private_pages += by;
    m->spaces[1][space].peak_private_pages += by;
}

static void each_threshold_decides(void **state)
{
    (void)state;
    struct made_up m;
    tide_pressure_verdict v;
    make_up(&m);
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    assert_int_equal(v.kinds, 0);
    assert_int_equal(v.space, 0);

    /* Leak: growth, a working set that does not follow, no ups and downs. */
    private_grows(&m, 1, 255);
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    private_grows(&m, 1, 1);
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_LEAK_SUSPECT);
    assert_int_equal(v.space, 11);
    m.spaces[1][1].working_set_pages += 64; /* 25 % of the growth */
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_LEAK_SUSPECT);
    m.spaces[1][1].working_set_pages++;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    m.spaces[1][1].working_set_pages = 100; /* it even shrank */
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_LEAK_SUSPECT);
    assert_int_equal(v.working_set_growth_pages, -400);
    m.spaces[1][1].peak_private_pages = 2000; /* it has been higher */
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    m.spaces[1][1].peak_private_pages = 1256;
    private_grows(&m, 2, 300); /* the one that grows most is named */
    v = judge(&m, NULL);
    assert_int_equal(v.space, 12);
    v = judge(&m, &(tide_pressure_thresholds){ .leak_growth_pages = 301 });
    assert_kind(&v, TIDE_PRESSURE_NONE);

    /* A space that is new counts from nothing; one that has gone is not asked. */
    make_up(&m);
    m.before.space_count = 2;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE); /* 1,000 pages more, but a working set of 500 with them */
    m.spaces[1][2].working_set_pages = 0;
    v = judge(&m, NULL);
    assert_int_equal(v.space, 12);
    make_up(&m);
    m.after.spaces = &m.spaces[1][1];
    m.after.space_count = 2;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);

    /* Hard faults: 20 a second are much. */
    make_up(&m);
    m.spaces[1][0].faults.hard = 199;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_NONE);
    m.spaces[1][0].faults.hard = 200;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_STREAMING);
    assert_int_equal(v.space, 10);
    /* Little available and much repurposed make no thrash of one space; with two they do. */
    m.after.statistics.available_pages = 999;
    m.after.statistics.pages_input = 1000;
    m.after.statistics.transition_pages_repurposed = 500;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_STREAMING);
    v = judge(&m, &(tide_pressure_thresholds){ .thrash_spaces = 1 });
    assert_kind(&v, TIDE_PRESSURE_THRASH);
    m.spaces[1][1].faults.hard = 300;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_THRASH);
    assert_int_equal(v.space, 11);
    assert_int_equal(v.reading_spaces, 2);
    m.after.statistics.available_pages = 1000; /* a tenth is not little */
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_STREAMING);
    m.after.statistics.available_pages = 999;
    m.after.statistics.transition_pages_repurposed = 499;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_STREAMING);

    /* Commit: 90 % of what it can ever be; the graver verdict is the one, both are told. */
    private_grows(&m, 2, 5000);
    m.after.statistics.commit_total_pages = 26999;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_LEAK_SUSPECT);
    m.after.statistics.commit_total_pages = 27000;
    v = judge(&m, NULL);
    assert_kind(&v, TIDE_PRESSURE_COMMIT_NEAR);
    assert_int_equal(v.kinds, 1u << TIDE_PRESSURE_COMMIT_NEAR | 1u << TIDE_PRESSURE_LEAK_SUSPECT |
                                  1u << TIDE_PRESSURE_STREAMING);
    assert_int_equal(v.space, 12);
    assert_non_null(strstr(v.explanation, "27000"));
}

static void illegal_arguments_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct made_up m;
    tide_pressure_verdict v;
    tide_pressure_snapshot s = { 0 };
    make_up(&m);
    assert_status(tide_pressure_classify(NULL, &m.after, NULL, &v), TIDE_INVALID_PARAMETER);
    assert_status(tide_pressure_classify(&m.before, NULL, NULL, &v), TIDE_INVALID_PARAMETER);
    assert_status(tide_pressure_classify(&m.before, &m.after, NULL, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_pressure_classify(&m.after, &m.before, NULL, &v), TIDE_INVALID_PARAMETER);
    assert_status(tide_pressure_classify(&m.before, &m.before, NULL, &v), TIDE_INVALID_PARAMETER);
    assert_status(tide_pressure_classify(&s, &m.after, NULL, &v), TIDE_INVALID_PARAMETER);
    assert_string_equal(tide_pressure_name((tide_pressure_kind)5), "unknown");
    fixture_open(fixture, 256);
    assert_status(tide_pressure_snapshot_take(NULL, &s), TIDE_INVALID_HANDLE);
    assert_status(tide_pressure_snapshot_take(fixture->engine, NULL), TIDE_INVALID_PARAMETER);
    assert_success(tide_pressure_snapshot_take(fixture->engine, &s)); /* of an engine without spaces */
    assert_int_equal(s.space_count, 0);
    tide_pressure_snapshot_free(&s);
    tide_pressure_snapshot_free(&s);
    tide_pressure_snapshot_free(NULL);
    fixture_close(fixture);
}

static const struct CMUnitTest diagnosis[] = {
    API_TEST(TL_1_an_untouched_leak_grows_private_bytes_and_nothing_else),
    API_TEST(TL_2_and_3_the_limit_fails_the_leak_alone_and_its_end_brings_all_back),
    API_TEST(TL_4_a_touched_leak_fills_memory_and_then_the_page_file),
    API_TEST(TL_5_one_space_that_streams_is_no_pressure),
    API_TEST(TL_5_eight_spaces_over_memory_thrash),
    cmocka_unit_test(each_threshold_decides),
    API_TEST(illegal_arguments_are_refused),
};

API_MAIN(diagnosis)
