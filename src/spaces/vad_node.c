/*
 * Memory for nodes of VAD trees.
 *
 * Each tree has slabs of its own. A node that was replaced waits for its grace period, oldest first, since readers may
 * still be in it; then it is used again. Whoever changes the tree makes sure of enough free nodes before: the change
 * itself cannot fail.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/vad_impl.h"

enum {
    RETIRED_MANY = 32, /* retired nodes from which on changes move the grace period themselves */
};

static struct slab *slab_of(struct vad_tree *tree, unsigned level)
{
    return level == 0 ? &tree->leaves : &tree->inners;
}

/* Frees nodes whose grace period has passed. */
static void recycle(struct vad_tree *tree)
{
    /*
     * With nobody else to move it on, the grace period would never pass. An open section may hold it back: not each
     * time.
     */
    if (tree->retired_count >= tree->retired_bound) {
        (void)grace_advance(tree->grace);
        tree->retired_bound = tree->retired_count + RETIRED_MANY / 2;
    }
    while (tree->retired != NULL && grace_passed(tree->grace, tree->retired->retired_epoch)) {
        struct vad_node *node = tree->retired;

        tree->retired = node->next;
        tree->retired_count--;
        slab_put(slab_of(tree, node->level), node);
    }
    if (tree->retired_count < RETIRED_MANY)
        tree->retired_bound = RETIRED_MANY;
}

bool vad_nodes_have(struct vad_tree *tree, uint64_t leaves, uint64_t inners)
{
    if (tree->retired != NULL)
        recycle(tree);
    return slab_have(&tree->leaves, leaves) && slab_have(&tree->inners, inners);
}

struct vad_node *vad_node_take(struct vad_tree *tree, unsigned level)
{
    struct vad_node *node = slab_take(slab_of(tree, level));

    ASSERT_ALWAYS(node != NULL);
    return node;
}

void vad_node_drop(struct vad_tree *tree, struct vad_node *node)
{
    /* One that was made in this very change has never been seen. */
    if (node->born == tree->sequence) {
        slab_put(slab_of(tree, node->level), node);
        return;
    }
    node->next = tree->dropped;
    tree->dropped = node;
}

void vad_nodes_retire(struct vad_tree *tree)
{
    while (tree->dropped != NULL) {
        struct vad_node *node = tree->dropped;

        tree->dropped = node->next;
        node->retired_epoch = grace_now(tree->grace);
        node->next = NULL;
        if (tree->retired == NULL)
            tree->retired = node;
        else
            tree->retired_last->next = node;
        tree->retired_last = node;
        tree->retired_count++;
    }
}

void vad_tree_init(struct vad_tree *tree, struct grace *grace)
{
    *tree = (struct vad_tree){
        .grace = grace,
        .capacity = VAD_FANOUT,
        .leaves = slab_make(offsetof(struct vad_node, first)),
        .inners = slab_make(sizeof(struct vad_node)),
        .retired_bound = RETIRED_MANY,
    };
}

void vad_tree_destroy(struct vad_tree *tree)
{
    slab_destroy(&tree->leaves);
    slab_destroy(&tree->inners);
    vad_tree_init(tree, tree->grace);
}
