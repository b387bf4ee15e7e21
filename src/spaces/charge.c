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

/* Of the frames, the part that page tables may take: one in so many. */
enum { TABLES_PART = 2 };

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

/*
 * Page tables are never written out. Each page that is committed may be touched, and be the one that a table is kept
 * for until its region goes; so no more is committed than the tables of a part of the frames can map. It is the least
 * that they take: where single regions lie far apart, each has a table for itself.
 */
static tide_status tables_fit(const struct partition *partition, uint64_t pages)
{
    const uint64_t charged = commit_charged_bound(&partition->commit);
    const uint64_t most = frames_usable(partition->frames) / TABLES_PART * TABLE_ENTRIES;

    if (charged <= most && pages <= most - charged)
        return TIDE_SUCCESS;
    return error_set(TIDE_COMMITMENT_LIMIT, 0, 0,
                     "cannot commit %lu pages: %lu are charged, and %lu are the most that page tables in half of the "
                     "engine's %lu frames can map; a larger budget helps, a page file does not",
                     pages, charged, most, frames_usable(partition->frames));
}

/* Against the limit of the space; without one it always succeeds. */
static tide_status space_charge(tide_space *space, uint64_t pages)
{
    if (pages == 0 || !tide_failed(commit_charge(&space->commit, pages)))
        return TIDE_SUCCESS;
    return error_set(TIDE_COMMITMENT_LIMIT, 0, 0,
                     "cannot commit %lu pages: the space has committed %lu, and its own limit is %lu pages", pages,
                     commit_total(&space->commit), sync_load_64(&space->commit.limit));
}

static tide_status engine_charge(struct partition *partition, uint64_t pages, uint64_t tables)
{
    struct commit *commit = &partition->commit;
    const tide_status status = pages + tables == 0 ? TIDE_SUCCESS : commit_charge(commit, pages + tables);

    if (!tide_failed(status))
        return status;
    return error_set(status, 0, 0,
                     "cannot commit %lu pages (and %lu for page tables): %lu are charged, the limit is %lu pages, and "
                     "%lu with all page files at their maximum",
                     pages, tables, commit_total(commit), sync_load_64(&commit->limit), sync_load_64(&commit->maximum));
}

tide_status pages_charge(struct region_retry *retry, uint64_t pages, uint64_t tables)
{
    tide_space *space = retry->space;
    struct partition *partition = space->partition;
    /* Who cannot be refused comes last: what is refused is in nobody's peak then. */
    const bool space_first = sync_load_64(&space->commit.limit) != TIDE_NO_COMMIT_LIMIT;

    retry->wanted_pages = 0;
    tide_status status = tables == 0 ? TIDE_SUCCESS : tables_fit(partition, pages);
    if (!tide_failed(status) && space_first)
        status = space_charge(space, pages);
    if (tide_failed(status))
        return status;
    status = engine_charge(partition, pages, tables);
    if (tide_failed(status)) {
        retry->wanted_pages = pages + tables;
        if (space_first)
            commit_return(&space->commit, pages);
    } else if (!space_first) {
        status = space_charge(space, pages); /* a limit may have come meanwhile */
        if (tide_failed(status))
            commit_return(&partition->commit, pages + tables);
    }
    return status;
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
