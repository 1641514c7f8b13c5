// SPDX-License-Identifier: Apache-2.0
#include "disk.h"

#include "vd_log.h"

int main(void)
{
    vd_log_init("test", VD_LOG_ERROR);
    Suite *s = suite_create("filter");
    add_chain_tests(s);
    add_config_tests(s);
    add_defer_tests(s);
    add_fault_tests(s);
    add_load_tests(s);
    add_edges_tests(s);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
