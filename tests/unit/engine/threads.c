/*
 * Which threads know which engines: a thread has one record per engine, made at its first call and given back when it
 * ends, and no engine is taken for another, however often engines and threads come and go.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine_impl.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { FRAMES = 64, ENGINES = 8, GENERATIONS = 200 };

static tide_engine *open_engine(void)
{
    tide_engine *engine = NULL;
    tide_config config;

    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = FRAMES * (uint64_t)TIDE_PAGE_BYTES;
    config.workers = TIDE_WORKERS_MANUAL;
    config.disable_huge_pages = true;
    assert_int_equal(tide_engine_open(&config, &engine), TIDE_SUCCESS);
    return engine;
}

static tide_space *open_space(tide_engine *engine, tide_address *base)
{
    uint64_t bytes = TIDE_PAGE_BYTES;
    tide_space *space = NULL;

    *base = 0;
    assert_int_equal(tide_space_create(engine, &space), TIDE_SUCCESS);
    assert_int_equal(tide_virtual_alloc(space, base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
    return space;
}

static void close_all(tide_engine *engine, tide_space *space)
{
    assert_int_equal(tide_engine_verify(engine, NULL), TIDE_SUCCESS);
    assert_int_equal(tide_space_destroy(space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_close(engine), TIDE_SUCCESS);
}

static unsigned records(const tide_engine *engine)
{
    unsigned count = 0;

    for (const struct grace_thread *thread = engine->partition.frames->grace.threads; thread != NULL;
         thread = thread->next)
        count++;
    return count;
}

struct call {
    tide_space *space;
    tide_address address;
    tide_status status;
    struct grace_thread *record;
};

static void *call_thread(void *context)
{
    struct call *call = context;
    uint64_t value = 0;

    call->status = tide_read(call->space, call->address, &value, sizeof value);
    if (call->status == TIDE_SUCCESS) {
        value++;
        call->status = tide_write(call->space, call->address, &value, sizeof value);
    }
    call->record = engine_thread(engine_of(call->space));
    return NULL;
}

static struct grace_thread *call_in_new_thread(tide_space *space, tide_address address)
{
    struct call call = { .space = space, .address = address };
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, call_thread, &call), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(call.status, TIDE_SUCCESS);
    assert_non_null(call.record);
    return call.record;
}

/* An engine that outlives thousands of threads does not grow with them. */
static void records_of_ended_threads_are_used_again(void **state)
{
    tide_engine *engine = open_engine();
    tide_address address;
    tide_space *space = open_space(engine, &address);
    uint64_t value = 0;

    (void)state;
    const struct grace_thread *first = call_in_new_thread(space, address);
    const unsigned count = records(engine);
    for (unsigned i = 1; i < GENERATIONS; i++)
        assert_ptr_equal(call_in_new_thread(space, address), first);
    assert_int_equal(records(engine), count);
    assert_ptr_not_equal(engine_thread(engine), first);
    assert_int_equal(tide_read(space, address, &value, sizeof value), TIDE_SUCCESS);
    assert_int_equal(value, GENERATIONS);
    close_all(engine, space);
}

/* One thread in many engines by turns: each keeps its own record, whichever was used last. */
static void a_thread_has_one_record_per_engine(void **state)
{
    tide_engine *engines[ENGINES];
    tide_space *spaces[ENGINES];
    tide_address addresses[ENGINES];
    const struct grace_thread *own[ENGINES];

    (void)state;
    for (unsigned i = 0; i < ENGINES; i++) {
        engines[i] = open_engine();
        spaces[i] = open_space(engines[i], &addresses[i]);
        own[i] = engine_thread(engines[i]);
    }
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < ENGINES; i++) {
            const unsigned which = (i * 3 + round) % ENGINES;
            const uint64_t value = round * 100 + which;
            uint64_t back = 0;

            assert_ptr_equal(engine_thread(engines[which]), own[which]);
            assert_ptr_equal(own[which]->grace, &engines[which]->partition.frames->grace);
            assert_int_equal(tide_write(spaces[which], addresses[which], &value, sizeof value), TIDE_SUCCESS);
            assert_int_equal(tide_read(spaces[which], addresses[which], &back, sizeof back), TIDE_SUCCESS);
            assert_int_equal(back, value);
        }
    }
    for (unsigned i = 0; i < ENGINES; i++) {
        uint64_t back = 0;

        assert_int_equal(tide_read(spaces[i], addresses[i], &back, sizeof back), TIDE_SUCCESS);
        assert_int_equal(back, 900 + i);
        close_all(engines[i], spaces[i]);
    }
}

/* A new engine may lie where an old one lay; its threads must not bring the old one's records along. */
static void an_engine_is_never_taken_for_a_closed_one(void **state)
{
    uint64_t last_id = 0;

    (void)state;
    for (unsigned i = 0; i < 50; i++) {
        tide_engine *engine = open_engine();
        tide_address address;
        tide_space *space = open_space(engine, &address);

        assert_true(engine->id > last_id);
        last_id = engine->id;
        assert_ptr_equal(engine_thread(engine)->grace, &engine->partition.frames->grace);
        call_in_new_thread(space, address);
        close_all(engine, space);
    }
}

struct long_thread {
    pthread_barrier_t *barrier;
    struct call call;
};

static void *long_thread_main(void *context)
{
    struct long_thread *thread = context;

    (void)call_thread(&thread->call);
    pthread_barrier_wait(thread->barrier); /* the main thread closes the engine now */
    pthread_barrier_wait(thread->barrier);
    return NULL;
}

/* A thread that used an engine may end after it was closed. */
static void a_thread_may_outlive_its_engine(void **state)
{
    pthread_barrier_t barrier;
    pthread_t thread;
    tide_engine *engine = open_engine();
    tide_engine *other = open_engine();
    tide_address address, of_other;
    tide_space *space = open_space(engine, &address);
    tide_space *space_of_other = open_space(other, &of_other);
    struct long_thread context = { .barrier = &barrier, .call = { .space = space, .address = address } };

    (void)state;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, long_thread_main, &context), 0);
    pthread_barrier_wait(&barrier);
    assert_int_equal(context.call.status, TIDE_SUCCESS);
    close_all(engine, space);
    pthread_barrier_wait(&barrier);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_barrier_destroy(&barrier), 0);
    call_in_new_thread(space_of_other, of_other);
    close_all(other, space_of_other);
}

/* Handles that are none: NULL, and one whose engine or space is another kind of thing. */
static void dead_handles_are_refused(void **state)
{
    static union {
        uint64_t words[512];
        tide_engine engine;
    } nothing;
    tide_engine *engine = open_engine();
    tide_address address;
    tide_space *space = open_space(engine, &address);
    char byte = 0;

    (void)state;
    assert_int_equal(tide_engine_verify(NULL, NULL), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_engine_verify(&nothing.engine, NULL), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_engine_close(&nothing.engine), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_touch(NULL, address, TIDE_ACCESS_READ), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_touch((tide_space *)(void *)&nothing, address, TIDE_ACCESS_READ), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_read((tide_space *)(void *)&nothing, address, &byte, 1), TIDE_INVALID_HANDLE);
    assert_int_equal(tide_space_destroy(NULL), TIDE_INVALID_HANDLE);
    close_all(engine, space);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_of_ended_threads_are_used_again),
        cmocka_unit_test(a_thread_has_one_record_per_engine),
        cmocka_unit_test(an_engine_is_never_taken_for_a_closed_one),
        cmocka_unit_test(a_thread_may_outlive_its_engine),
        cmocka_unit_test(dead_handles_are_refused),
    };

    return cmocka_run_group_tests_name("threads", tests, NULL, NULL) != 0;
}
