// SPDX-License-Identifier: Apache-2.0
#include "rig.h"

#include "vd_log.h"

int main(void)
{
    vd_log_init("test", VD_LOG_ERROR);
    Suite *s = suite_create("disk");
    add_filters_tests(s);
    add_history_tests(s);
    add_layers_tests(s);
    add_model_tests(s);
    add_size_tests(s);
    add_stale_tests(s);
    add_race_tests(s);
    add_filters_others_tests(s);
    add_filters_life_tests(s);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
