/* The debugger's session over a fake engine: packets and answers, breakpoints in memory and not, run control of several vCPUs, ends. */
#include "gdb_fake.h"

#define OWN (ENGINE_DEBUG_BREAKPOINTS | ENGINE_DEBUG_READS)

static int setup(void **state)
{
    *state = session_new(OWN, false);
    return 0;
}

/* An engine that wants INT3s in memory, as hardware does. */
static int setup_int3(void **state)
{
    *state = session_new(0, false);
    return 0;
}

static int setup_wait(void **state)
{
    *state = session_new(OWN, true);
    return 0;
}

static int teardown(void **state)
{
    session_free(*state);
    return 0;
}

static void put(struct test *t, gpa_t gpa, const char *bytes)
{
    assert_int_equal(mem_write(&t->vm.mem, gpa, bytes, strlen(bytes)), 0);
}

static uint8_t byte_at(struct test *t, gpa_t gpa)
{
    uint8_t byte;

    assert_int_equal(mem_read(&t->vm.mem, gpa, &byte, 1), 0);
    return byte;
}

/* --- coming and going --- */

static void attaching_stops_every_cpu_and_detaching_lets_them_go(void **state)
{
    struct test *t = *state;

    all_run();
    for (unsigned round = 0; round < 3; round++) {
        attach(t);
        all_stand();
        ANSWERS(t, "?", "T05thread:1;");
        ANSWERS(t, "qAttached", "1");
        ANSWERS(t, "D", "OK");
        assert_int_equal(next_byte(t), -1);
        close(t->client);
        all_run();
        assert_false(fakes[0].debugged);
    }
}

static void a_lost_connection_detaches(void **state)
{
    struct test *t = *state;

    attach(t);
    ANSWERS(t, "Z0,1000,1", "OK");
    close(t->client);
    all_run();
    attach(t);
    all_stand();
    ANSWERS(t, "z0,1000,1", "E02"); /* nothing of the first one's is left */
}

static void a_second_client_is_turned_away(void **state)
{
    struct test *t = *state;
    int first;

    attach(t);
    first = t->client;
    t->client = connect_client(t);
    assert_int_equal(next_byte(t), -1);
    close(t->client);
    t->client = first;
    ANSWERS(t, "qC", "QC1");
}

static void with_wait_nothing_runs_before_the_client_says_so(void **state)
{
    struct test *t = *state;

    attach(t);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(fakes[i].entries, 0);
    command(t, "vCont;c");
    all_run();
}

static void the_socket_is_the_owners_alone_and_goes_with_the_vm(void **state)
{
    struct test *t = *state;
    struct stat st;

    assert_int_equal(stat(t->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    loop_end(t);
    gdb_free(t->gdb, 0);
    t->gdb = NULL;
    assert_int_equal(stat(t->path, &st), -1);
}

static void the_socket_of_a_dead_vm_is_taken_over_and_that_of_a_living_one_is_not(void **state)
{
    struct test *t = *state;
    struct vm other = t->vm;
    struct gdb *gdb = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[64];
    struct err e;
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);

    assert_int_equal(gdb_new(&gdb, &other, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, t->path));
    ANSWERS((attach(t), t), "qC", "QC1");

    snprintf(path, sizeof(path), "%s/dead", t->folder);
    strcpy(address.sun_path, path);
    assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
    close(dead);
    other.config.gdb.path = path;
    assert_int_equal(gdb_new(&gdb, &other, &e), 0);
    gdb_free(gdb, 0);
}

/* --- the line --- */

static void acknowledgements_and_repeats(void **state)
{
    struct test *t = *state;

    t->client = connect_client(t);
    t->acks = true;
    ANSWERS(t, "qC", "QC1");
    send_raw(t, "-", 1); /* it did not come well */
    assert_string_equal(receive(t), "QC1");
    send_raw(t, "$qC#00", 6);
    assert_int_equal(next_byte(t), '-');
    ANSWERS(t, "qC", "QC1");
    ANSWERS(t, "QStartNoAckMode", "OK");
    t->acks = false;
    ANSWERS(t, "qC", "QC1");
}

static void nonsense_is_answered_by_errors(void **state)
{
    static const char *const bad[] = {
        "p",
        "p99",
        "pxyz",
        "p1x",
        "P0",
        "P0=",
        "P0=12",
        "P63=00",
        "G00",
        "m",
        "m1000",
        "m1000,",
        "m,1",
        "mx,1",
        "M1000,2",
        "M1000,2:0",
        "M1000,1:00ff",
        "M1000,ffffffff:00",
        "X1000,1:",
        "Z",
        "Z0",
        "Z0,",
        "Z0,1000",
        "Z0,1000,1;X1,00",
        "Zx,1,1",
        "z1,5555,1",
        "Z2,1000,0",
        "Z2,ffffffffffffffff,2",
        "H",
        "Hx1",
        "Hg99",
        "T",
        "T99",
        "T0",
        "vCont",
        "vCont;x",
        "vCont;c:99",
        "vCont;s:",
        "vCont;C",
        "vContx",
        "Cx",
        "S",
        "cxyz",
        "qThreadExtraInfo,",
        "qThreadExtraInfo,99",
        "qXfer:features:read:target.xml:",
        "qXfer:features:read:target.xml:fffff,10",
        "qRcmd,1",
        "qRcmd,xx",
        "p10000000000000000",
        "m10000000000000000,1",
    };
    static const char *const unknown[] = {"",       "x",          "!", "R00", "bs", "vMustReplyEmpty", "qOffsets", "qXfer:auxv:read::0,10",
                                          "Z5,1,1", "QNonStop:1", "g1"};
    struct test *t = *state;

    attach(t);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (ask(t, bad[i])[0] != 'E')
            fail_msg("%s was answered by %s", bad[i], t->reply);
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++)
        if (ask(t, unknown[i])[0] != '\0')
            fail_msg("%s was answered by %s", unknown[i], t->reply);
    all_stand();
    ANSWERS(t, "qC", "QC1");
}

static void what_is_too_long_is_refused(void **state)
{
    struct test *t = *state;
    static char packet[0x4800];

    attach(t);
    memset(packet, 'm', sizeof(packet) - 1);
    ANSWERS(t, packet, "E5a");
    ANSWERS(t, "qC", "QC1");
}

static void a_running_guest_is_not_looked_at(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "c");
    all_run();
    ANSWERS(t, "m1000,1", "E10");
    ANSWERS(t, "g", "E10");
    ANSWERS(t, "vCont;c", "E10");
    all_run();
    ANSWERS(t, "D", "OK");
}

/* --- threads --- */

static void a_thread_is_a_cpu(void **state)
{
    struct test *t = *state;

    attach(t);
    fakes[1].state.rip = 0x1234;
    fakes[2].state.halted = true;
    fakes[2].state.cr0 = CR0_PE;
    ANSWERS(t, "qfThreadInfo", "m1,2,3");
    ANSWERS(t, "qsThreadInfo", "l");
    ANSWERS(t, "T3", "OK");
    ANSWERS(t, "T4", "E02");
    ANSWERS(t, "Hg2", "OK");
    ANSWERS(t, "qC", "QC2");
    ANSWERS(t, "p10", "3412000000000000");
    ANSWERS(t, "Hg0", "OK");
    ANSWERS(t, "p10", "0000000000000000");
    ANSWERS(t, "qThreadExtraInfo,3", "43505520322c2068616c746564");       /* CPU 2, halted */
    ANSWERS(t, "qThreadExtraInfo,1", "43505520302c207265616c206d6f6465"); /* CPU 0, real mode */
}

/* --- registers and memory --- */

static void registers_are_read_and_written(void **state)
{
    struct test *t = *state;
    static char all[2048];

    attach(t);
    fakes[0].state.gpr[GPR_RAX] = 0x1122334455667788;
    fakes[0].state.rflags = 2;
    snprintf(all, sizeof(all), "G%s", ask(t, "g"));
    assert_memory_equal(all, "G8877665544332211", 17);
    ANSWERS(t, "P0=0100000000000000", "OK");
    assert_int_equal(fakes[0].state.gpr[GPR_RAX], 1);
    assert_int_equal(fakes[0].set_groups, CPU_GPRS);
    ANSWERS(t, "p0", "0100000000000000");
    ANSWERS(t, all, "OK"); /* as it was */
    assert_int_equal(fakes[0].state.gpr[GPR_RAX], 0x1122334455667788);
    ANSWERS(t, "P12=99000000", "E01"); /* CS */
    ANSWERS(t, "p12", "00000000");
}

static void memory_is_read_and_written(void **state)
{
    struct test *t = *state;
    unsigned before;

    attach(t);
    put(t, 0x1000, "hello");
    ANSWERS(t, "m1000,5", "68656c6c6f");
    ANSWERS(t, "m1fffff,8", "00"); /* what there is */
    ANSWERS(t, "m200000,1", "E0e");
    before = fake_changed.count;
    ANSWERS(t, "M1001,2:4142", "OK");
    assert_int_equal(fake_changed.count, before + 1);
    assert_int_equal(fake_changed.gpa, 0x1001);
    send_packet(t, "X1003,2:}\x03x", 11);
    assert_string_equal(receive(t), "OK");
    ANSWERS(t, "m1000,5", "6841422378");
    ANSWERS(t, "M1fffff,2:ffff", "E0e");
    assert_int_equal(byte_at(t, 0x1fffff), 0); /* all or nothing */
    ANSWERS(t, "X1000,0:", "OK");
    ANSWERS(t, "M1000,0:", "OK");
    assert_int_equal(strlen(ask(t, "m0,ffffffff")), 0x4000);
}

static void the_description_comes_in_pieces(void **state)
{
    struct test *t = *state;
    static char xml[0x8000];
    char packet[64];

    attach(t);
    do {
        snprintf(packet, sizeof(packet), "qXfer:features:read:target.xml:%zx,100", strlen(xml));
        ask(t, packet);
        assert_true(t->reply[0] == 'm' || t->reply[0] == 'l');
        strcat(xml, t->reply + 1);
    } while (t->reply[0] == 'm');
    assert_non_null(strstr(xml, "<target"));
    assert_non_null(strstr(xml, "</target>\n"));
}

/* --- breakpoints --- */

static void an_engine_that_compares_addresses_leaves_memory_alone(void **state)
{
    struct test *t = *state;

    attach(t);
    put(t, 0x1000, "AB");
    ANSWERS(t, "Z0,1000,1", "OK");
    ANSWERS(t, "Z0,ffffffff81000000,1", "OK"); /* mapped or not */
    ANSWERS(t, "Z0,1000,1", "OK");
    assert_int_equal(byte_at(t, 0x1000), 'A');
    command(t, "vCont;c");
    all_run();
    assert_int_equal(fakes[2].wish.breakpoint_count, 2);
    assert_int_equal(fakes[2].wish.breakpoint[1], 0xffffffff81000000);
    stop_at(2, DEBUG_STOP_BREAKPOINT, 0x1000);
    assert_string_equal(receive(t), "T05thread:3;swbreak:;");
    all_stand();
    ANSWERS(t, "z0,1000,1", "OK");
    ANSWERS(t, "z0,1000,1", "E02");
    command(t, "vCont;c");
    all_run();
    assert_int_equal(fakes[0].wish.breakpoint_count, 1);
}

static void int3s_are_put_in_and_hidden_and_taken_out(void **state)
{
    struct test *t = *state;

    attach(t);
    put(t, 0x1000, "ABC");
    ANSWERS(t, "Z0,200000,1", "E0e");
    ANSWERS(t, "Z0,1001,1", "OK");
    assert_int_equal(byte_at(t, 0x1001), 0xcc);
    assert_int_equal(fake_changed.gpa, 0x1001);
    ANSWERS(t, "Z0,1001,1", "OK");
    ANSWERS(t, "m1000,3", "414243");
    ANSWERS(t, "m1001,1", "42");
    ANSWERS(t, "M1001,2:5859", "OK");
    assert_int_equal(byte_at(t, 0x1001), 0xcc);
    ANSWERS(t, "m1000,3", "415859");
    ANSWERS(t, "z0,1001,1", "OK");
    assert_int_equal(byte_at(t, 0x1001), 'X');
    ANSWERS(t, "Z0,1001,1", "OK");
    put(t, 0x1001, "Q"); /* the guest has overwritten it */
    ANSWERS(t, "z0,1001,1", "OK");
    assert_int_equal(byte_at(t, 0x1001), 'Q');
    ANSWERS(t, "Z0,1001,1", "OK");
    ANSWERS(t, "D", "OK");
    assert_int_equal(next_byte(t), -1);
    assert_int_equal(byte_at(t, 0x1001), 'Q');
}

static void there_are_so_many_breakpoints(void **state)
{
    struct test *t = *state;
    char packet[32];

    attach(t);
    for (unsigned i = 0; i < VCPU_DEBUG_BREAKPOINTS; i++) {
        snprintf(packet, sizeof(packet), "Z0,%x,1", 0x1000 + i);
        ANSWERS(t, packet, "OK");
    }
    ANSWERS(t, "Z0,1,1", "E1c");
}

static void ranges_are_split_among_four_points(void **state)
{
    struct test *t = *state;

    attach(t);
    ANSWERS(t, "Z2,1004,c", "OK"); /* 4 at 1004, 8 at 1008 */
    ANSWERS(t, "Z1,ffffffff81000000,1", "OK");
    ANSWERS(t, "Z4,2001,2", "E1c"); /* 1 at 2001, 1 at 2002 */
    ANSWERS(t, "Z3,2001,1", "OK");
    ANSWERS(t, "Z2,3000,1", "E1c");
    ANSWERS(t, "Z2,1004,c", "OK"); /* it is there */
    command(t, "vCont;c");
    all_run();
    assert_int_equal(fakes[1].wish.point_count, 4);
    assert_int_equal(fakes[1].wish.point[0].gva, 0x1004);
    assert_int_equal(fakes[1].wish.point[0].len, 4);
    assert_int_equal(fakes[1].wish.point[1].gva, 0x1008);
    assert_int_equal(fakes[1].wish.point[1].len, 8);
    assert_int_equal(fakes[1].wish.point[2].kind, VCPU_DEBUG_EXECUTE);
    assert_int_equal(fakes[1].wish.point[3].kind, VCPU_DEBUG_READ);
    stop_at(1, DEBUG_STOP_WATCH, 0x100a);
    assert_string_equal(receive(t), "T05thread:2;watch:100a;");
    command(t, "vCont;c");
    stop_at(0, DEBUG_STOP_EXECUTE, 0xffffffff81000000);
    assert_string_equal(receive(t), "T05thread:1;hwbreak:;");
    command(t, "vCont;c");
    stop_at(0, DEBUG_STOP_WATCH, 0x2001);
    assert_string_equal(receive(t), "T05thread:1;rwatch:2001;");
    ANSWERS(t, "z2,1004,c", "OK");
    ANSWERS(t, "Z4,3000,8", "OK");
    ANSWERS(t, "Z2,3000,80", "E1c");
}

static void what_an_engine_cannot_watch_gdb_is_told(void **state)
{
    struct test *t = *state;

    attach(t);
    ANSWERS(t, "Z3,1000,4", "");
    ANSWERS(t, "Z4,1000,4", "OK");
}

static void a_client_that_knows_no_reasons_is_told_none(void **state)
{
    struct test *t = *state;

    attach(t);
    ask(t, "qSupported:multiprocess+");
    ANSWERS(t, "Z0,1000,1", "OK");
    command(t, "c");
    stop_at(0, DEBUG_STOP_BREAKPOINT, 0x1000);
    assert_string_equal(receive(t), "T05thread:1;");
}

/* --- running --- */

static void each_thread_does_as_it_is_told(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "vCont;s:2;c");
    all_run();
    assert_false(fakes[0].wish.single_step);
    assert_true(fakes[1].wish.single_step);
    assert_false(fakes[2].wish.single_step);
    stop_at(1, DEBUG_STOP_STEP, 0);
    assert_string_equal(receive(t), "T05thread:2;");
    all_stand();
    command(t, "vCont;s:3");
    wait_inside(2);
    assert_false(is_inside(0));
    assert_false(is_inside(1));
    stop_at(2, DEBUG_STOP_STEP, 0);
    assert_string_equal(receive(t), "T05thread:3;");
    command(t, "vCont;S05:1;C05:-1");
    all_run();
    assert_true(fakes[0].wish.single_step);
    assert_false(fakes[2].wish.single_step);
    stop_at(0, DEBUG_STOP_STEP, 0);
    assert_string_equal(receive(t), "T05thread:1;");
    ANSWERS(t, "Hc2", "OK");
    command(t, "s");
    wait_inside(1);
    assert_false(is_inside(0));
    stop_at(1, DEBUG_STOP_STEP, 0);
    assert_string_equal(receive(t), "T05thread:2;");
    ANSWERS(t, "Hc-1", "OK");
    command(t, "s4321");
    all_run();
    assert_true(fakes[1].wish.single_step);
    assert_false(fakes[0].wish.single_step);
    assert_int_equal(fakes[1].state.rip, 0x4321);
    stop_at(1, DEBUG_STOP_STEP, 0);
    assert_string_equal(receive(t), "T05thread:2;");
    ANSWERS(t, "?", "T05thread:2;");
}

static void ctrl_c_stops_the_guest(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "vCont;c");
    all_run();
    send_raw(t, "\x03", 1);
    assert_string_equal(receive(t), "T02thread:1;");
    all_stand();
    send_raw(t, "\x03", 1); /* and nothing more when it stands */
    ANSWERS(t, "qC", "QC1");
}

/* Both are at the same place in time; the one's breakpoint is met once more, the other's write has happened. */
static void of_two_that_stop_together_no_write_is_lost(void **state)
{
    struct test *t = *state;

    attach(t);
    ANSWERS(t, "Z2,1000,4", "OK");
    ANSWERS(t, "Z0,5000,1", "OK");
    for (unsigned round = 0; round < 20; round++) {
        bool watch_first;

        command(t, "vCont;c");
        all_run();
        loop_end(t); /* so that both have stopped before either is looked at */
        stop_at(0, DEBUG_STOP_BREAKPOINT, 0x5000);
        stop_at(2, DEBUG_STOP_WATCH, 0x1000);
        while (!t->vm.vcpus[0]->debug_stopped || !t->vm.vcpus[2]->debug_stopped)
            usleep(100);
        loop_begin(t);
        watch_first = strcmp(receive(t), "T05thread:3;watch:1000;") == 0;
        all_stand();
        command(t, "vCont;c");
        if (!watch_first)
            assert_string_equal(receive(t), "T05thread:3;watch:1000;"); /* before anything runs */
        else
            stop_at(0, DEBUG_STOP_BREAKPOINT, 0x5000), assert_string_equal(receive(t), "T05thread:1;swbreak:;");
        all_stand();
    }
    ANSWERS(t, "z2,1000,4", "OK");
}

static void what_the_engine_refuses_does_not_run(void **state)
{
    struct test *t = *state;

    attach(t);
    fakes[2].debug_error = -EINVAL;
    ANSWERS(t, "vCont;c", "E16");
    all_stand();
    fakes[2].debug_error = 0;
    command(t, "vCont;c");
    all_run();
}

/* --- ends --- */

static void end_with(struct test *t, enum vm_end end, int value, int status)
{
    vm_request_end(&t->vm, end, value, NULL);
    pthread_join(t->thread, NULL);
    t->looping = false;
    vcpu_pause_all(&t->vm, VM_HOLD_MACHINE);
    gdb_free(t->gdb, status);
    t->gdb = NULL;
}

static void the_end_of_a_running_guest_is_told(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "vCont;c");
    all_run();
    end_with(t, VM_END_DEBUG_EXIT, 0x15, 0x2b);
    assert_string_equal(receive(t), "W2b");
    assert_int_equal(next_byte(t), -1);
}

static void the_end_by_a_signal_is_told(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "vCont;c");
    all_run();
    end_with(t, VM_END_QUIT, 143, 143);
    assert_string_equal(receive(t), "X0f");
}

static void the_end_of_a_guest_that_stands_closes_the_connection(void **state)
{
    struct test *t = *state;

    attach(t);
    end_with(t, VM_END_QUIT, 0, 0);
    assert_int_equal(next_byte(t), -1);
}

static void kill_ends_the_vm(void **state)
{
    struct test *t = *state;

    attach(t);
    ANSWERS(t, "vKill;1", "OK");
    pthread_join(t->thread, NULL);
    t->looping = false;
    assert_int_equal(t->vm.end, VM_END_QUIT);
    assert_int_equal(t->vm.end_value, 0);
}

/* As machine_run() does it. */
static void reset(struct test *t)
{
    vm_request_end(&t->vm, VM_END_RESET, 0, NULL);
    pthread_join(t->thread, NULL);
    vcpu_pause_all(&t->vm, VM_HOLD_MACHINE);
    t->vm.end = VM_RUNNING;
    put(t, 0x1000, "NEW");
    t->vm.debugger.reset(t->vm.debugger.opaque);
    vcpu_resume_all(&t->vm, VM_HOLD_MACHINE);
    loop_begin(t);
}

static void a_reset_leaves_the_session_as_it_was(void **state)
{
    struct test *t = *state;

    attach(t);
    put(t, 0x1000, "OLD");
    ANSWERS(t, "Z0,1000,1", "OK");
    ANSWERS(t, "Z1,2000,1", "OK");
    command(t, "vCont;c");
    all_run();
    reset(t);
    all_run();
    assert_int_equal(fakes[0].wish.point_count, 1);
    assert_int_equal(byte_at(t, 0x1000), 'N'); /* no INT3 in a kernel that may lie elsewhere */
    stop_at(1, DEBUG_STOP_EXECUTE, 0x2000);
    assert_string_equal(receive(t), "T05thread:2;hwbreak:;");
    ANSWERS(t, "z0,1000,1", "OK");
    assert_int_equal(byte_at(t, 0x1000), 'N');
    ANSWERS(t, "Z0,1000,1", "OK");
    assert_int_equal(byte_at(t, 0x1000), 0xcc);
    reset(t);
    all_stand();
    ANSWERS(t, "Z0,1000,1", "OK"); /* anew */
    assert_int_equal(byte_at(t, 0x1000), 0xcc);
}

static void a_stop_that_a_reset_overtakes_is_forgotten(void **state)
{
    struct test *t = *state;

    attach(t);
    command(t, "vCont;c");
    all_run();
    loop_end(t);
    stop_at(1, DEBUG_STOP_BREAKPOINT, 0x1000);
    while (!t->vm.vcpus[1]->debug_stopped)
        usleep(100);
    vcpu_pause_all(&t->vm, VM_HOLD_MACHINE);
    t->vm.debugger.reset(t->vm.debugger.opaque);
    vcpu_resume_all(&t->vm, VM_HOLD_MACHINE);
    loop_begin(t);
    all_run();
    send_raw(t, "\x03", 1);
    assert_string_equal(receive(t), "T02thread:1;");
}

/* --- monitor --- */

static const char *monitor(struct test *t, const char *line)
{
    static char text[0x2800];
    char packet[256] = "qRcmd,";

    for (size_t i = 0; line[i]; i++)
        snprintf(packet + 6 + 2 * i, 3, "%02x", (uint8_t)line[i]);
    ask(t, packet);
    for (size_t i = 0; i < t->reply_len / 2; i++) {
        unsigned byte;

        assert_int_equal(sscanf(t->reply + 2 * i, "%2x", &byte), 1);
        text[i] = (char)byte;
        text[i + 1] = '\0';
    }
    return text;
}

static void monitor_commands(void **state)
{
    struct test *t = *state;

    attach(t);
    fakes[1].state.cr0 = CR0_PE;
    assert_non_null(strstr(monitor(t, "help"), "translate"));
    assert_non_null(strstr(monitor(t, "info"), "3 CPUs on the fake engine, 2 MiB"));
    assert_non_null(strstr(monitor(t, "info"), "CPU 1: rip 0x0, cr3 0x0, no paging"));
    assert_non_null(strstr(monitor(t, "translate 0x1234"), "physical 0x1234, in a page of 4 KiB\n"));
    assert_non_null(strstr(monitor(t, "translate 0x300000"), "not RAM"));
    assert_non_null(strstr(monitor(t, "translate 0x100000000"), "not mapped"));
    assert_non_null(strstr(monitor(t, "translate"), "needs an address"));
    assert_non_null(strstr(monitor(t, "nonsense"), "unknown"));
    assert_non_null(strstr(monitor(t, ""), "unknown"));
    ANSWERS(t, "Hg2", "OK");
    ANSWERS(t, "qRcmd,6e6d69", "OK");
    assert_int_equal(fakes[1].nmis, 1);
    assert_non_null(strstr(monitor(t, "reset"), "resetting"));
    pthread_join(t->thread, NULL);
    t->looping = false;
    assert_int_equal(t->vm.end, VM_END_RESET);
}

#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define INT3_TEST(name) cmocka_unit_test_setup_teardown(name, setup_int3, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SESSION_TEST(attaching_stops_every_cpu_and_detaching_lets_them_go),
        SESSION_TEST(a_lost_connection_detaches),
        SESSION_TEST(a_second_client_is_turned_away),
        cmocka_unit_test_setup_teardown(with_wait_nothing_runs_before_the_client_says_so, setup_wait, teardown),
        SESSION_TEST(the_socket_is_the_owners_alone_and_goes_with_the_vm),
        SESSION_TEST(the_socket_of_a_dead_vm_is_taken_over_and_that_of_a_living_one_is_not),
        SESSION_TEST(acknowledgements_and_repeats),
        SESSION_TEST(nonsense_is_answered_by_errors),
        SESSION_TEST(what_is_too_long_is_refused),
        SESSION_TEST(a_running_guest_is_not_looked_at),
        SESSION_TEST(a_thread_is_a_cpu),
        SESSION_TEST(registers_are_read_and_written),
        SESSION_TEST(memory_is_read_and_written),
        SESSION_TEST(the_description_comes_in_pieces),
        SESSION_TEST(an_engine_that_compares_addresses_leaves_memory_alone),
        INT3_TEST(int3s_are_put_in_and_hidden_and_taken_out),
        SESSION_TEST(there_are_so_many_breakpoints),
        SESSION_TEST(ranges_are_split_among_four_points),
        INT3_TEST(what_an_engine_cannot_watch_gdb_is_told),
        SESSION_TEST(a_client_that_knows_no_reasons_is_told_none),
        SESSION_TEST(each_thread_does_as_it_is_told),
        SESSION_TEST(ctrl_c_stops_the_guest),
        SESSION_TEST(of_two_that_stop_together_no_write_is_lost),
        SESSION_TEST(what_the_engine_refuses_does_not_run),
        SESSION_TEST(the_end_of_a_running_guest_is_told),
        SESSION_TEST(the_end_by_a_signal_is_told),
        SESSION_TEST(the_end_of_a_guest_that_stands_closes_the_connection),
        SESSION_TEST(kill_ends_the_vm),
        INT3_TEST(a_reset_leaves_the_session_as_it_was),
        SESSION_TEST(a_stop_that_a_reset_overtakes_is_forgotten),
        SESSION_TEST(monitor_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
