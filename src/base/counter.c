// SPDX-License-Identifier: Apache-2.0
#include "vd_counter.h"

unsigned vd_counter_shard(void)
{
    static _Atomic unsigned next;
    static _Thread_local unsigned mine; /* shard + 1; 0 is not dealt yet */
    if (!mine)
        mine = atomic_fetch_add(&next, 1) % VD_COUNTER_SHARDS + 1;
    return mine - 1;
}
