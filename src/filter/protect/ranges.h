// SPDX-License-Identifier: Apache-2.0
/* Sets of byte ranges, as a user writes them: "0-1M,1G+64K", "all". Pure: no state, any thread. */
#ifndef PROTECT_RANGES_H
#define PROTECT_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RANGES_TO_THE_END UINT64_MAX /* an `end` behind every byte a disk can have */

struct range {
    uint64_t start, end; /* bytes; END is the first byte behind it */
};

struct ranges {
    struct range *list; /* sorted, with gaps between them, none empty; malloc'd */
    size_t n;
};

/* What is wrong in a text: the part at fault, and a phrase that ends the sentence "PART ...". */
struct ranges_fault {
    char part[64]; /* cut where it is longer */
    const char *what;
};

/*
 * TEXT is a list of START-END, START+LENGTH and `all`, separated by commas, without blanks. Numbers are decimal with
 * at most one of K, M, G, T (either case, binary). Ranges may overlap and stand in any order.
 * 0: RET_RANGES is the caller's, for ranges_free. -EINVAL: RET_FAULT says why; -ENOMEM.
 */
int ranges_parse(const char *text, struct ranges *ret_ranges, struct ranges_fault *ret_fault);
void ranges_free(struct ranges *ranges);

/* Whether a byte of [START, END) is in one of them. By binary search. */
bool ranges_overlap(const struct ranges *ranges, uint64_t start, uint64_t end);

#endif
