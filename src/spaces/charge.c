/*
 * What a space is charged for: its pages, against its own limit and the engine's, and its page tables.
 *
 * Pages. Each space has a commit charge of its own (struct commit, with a credit per CPU), which is its private commit
 * and carries its limit; the engine's charge comes behind it. A charge of a page touches a line or two of the running
 * CPU and nothing that others write.
 *
 * Tables. Those that exist are charged, and those that may still be needed so that no touch of a committed page ever
 * needs a charge: each wholly committed region has promised the tables that it lacked when it was committed
 * (vad.table_charge), and a commit of single pages promises those that it is about to make. Always
 *     tables_charged >= tables that exist, and those that the promises still lack.
 * When a promise is dropped, the charge is cut back to (tables that exist) + (sum of promises), which is that or more.
 * All of this under a lock of its own, which is taken when tables come or go and not at each commit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

/* The limit of space.commit, which counts large pages: raised by as many as there are. Space locked. */
static void limit_apply(tide_space *space)
{
    const uint64_t limit = space->commit_limit, large = space->large_pages;

    commit_limit_set(&space->commit, limit > TIDE_NO_COMMIT_LIMIT - large ? TIDE_NO_COMMIT_LIMIT : limit + large);
}

void space_commit_limit_set(tide_space *space, uint64_t pages)
{
    sync_lock(&space->lock);
    space->commit_limit = pages;
    limit_apply(space);
    sync_unlock(&space->lock);
}

tide_status large_charge(struct region_retry *retry, uint64_t pages)
{
    tide_space *space = retry->space;
    struct commit *commit = &space->partition->commit;
    const tide_status status = commit_charge(commit, pages);

    retry->wanted_pages = tide_failed(status) ? pages : 0;
    if (tide_failed(status))
        return error_set(status, 0, 0, "cannot commit %lu pages: %lu are charged, the limit is %lu pages", pages,
                         commit_total(commit), sync_load_64(&commit->limit));
    sync_lock(&space->lock);
    space->large_pages += pages;
    if (space->commit_limit != TIDE_NO_COMMIT_LIMIT)
        limit_apply(space);
    commit_force(&space->commit, pages);
    sync_unlock(&space->lock);
    return TIDE_SUCCESS;
}

void large_uncharge_locked(tide_space *space, uint64_t pages)
{
    /* The limit first: at no moment can more be committed than the user's limit allows. */
    space->large_pages -= pages;
    if (space->commit_limit != TIDE_NO_COMMIT_LIMIT)
        limit_apply(space);
    pages_uncharge(space, pages);
}

void large_uncharge(tide_space *space, uint64_t pages)
{
    sync_lock(&space->lock);
    large_uncharge_locked(space, pages);
    sync_unlock(&space->lock);
}

tide_status pages_charge(struct region_retry *retry, uint64_t pages, uint64_t tables)
{
    tide_space *space = retry->space;
    struct commit *commit = &space->partition->commit;

    retry->wanted_pages = 0;
    if (pages != 0 && tide_failed(commit_charge(&space->commit, pages)))
        return error_set(TIDE_COMMITMENT_LIMIT, 0, 0,
                         "cannot commit %lu pages: the space has committed %lu, and its own limit is %lu pages", pages,
                         commit_total(&space->commit), sync_load_64(&space->commit.limit));
    const tide_status status = pages + tables == 0 ? TIDE_SUCCESS : commit_charge(commit, pages + tables);
    if (!tide_failed(status))
        return status;
    commit_return(&space->commit, pages);
    retry->wanted_pages = pages + tables;
    return error_set(status, 0, 0,
                     "cannot commit %lu pages (and %lu for page tables): %lu are charged, the limit is %lu pages, and "
                     "%lu with all page files at their maximum",
                     pages, tables, commit_total(commit), sync_load_64(&commit->limit), sync_load_64(&commit->maximum));
}

void pages_uncharge(tide_space *space, uint64_t pages)
{
    commit_return(&space->commit, pages);
    commit_return(&space->partition->commit, pages);
}

void tables_promise(tide_space *space, uint64_t tables)
{
    if (tables == 0)
        return;
    sync_lock(&space->tables_lock);
    space->tables_charged += tables;
    space->tables_promised += tables;
    sync_unlock(&space->tables_lock);
}

void tables_promise_drop(tide_space *space, uint64_t tables)
{
    uint64_t surplus = 0;

    sync_lock(&space->tables_lock);
    space->tables_promised -= tables;
    const uint64_t keep = sync_load_relaxed_64(&space->table.table_pages) + space->tables_promised;
    if (space->tables_charged > keep) {
        surplus = space->tables_charged - keep;
        space->tables_charged = keep;
    }
    sync_unlock(&space->tables_lock);
    commit_return(&space->partition->commit, surplus);
}

void region_tables_charge(tide_space *space, unsigned made)
{
    commit_force(&space->partition->commit, made);
    sync_lock(&space->tables_lock);
    space->tables_charged += made;
    sync_unlock(&space->tables_lock);
}
