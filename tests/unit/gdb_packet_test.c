/* Packets of the remote serial protocol: what is taken for one, what for noise, and how bytes and numbers are written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "gdb/packet.h"

static struct gdb_reader reader;

static int setup(void **state)
{
    (void)state;
    memset(&reader, 0, sizeof(reader));
    return 0;
}

/* The events that text makes, of which each but the last is nothing. */
static enum gdb_event feed(const char *text)
{
    enum gdb_event event = GDB_NOTHING;

    for (; *text; text++) {
        assert_int_equal(event, GDB_NOTHING);
        event = gdb_reader_feed(&reader, (uint8_t)*text);
    }
    return event;
}

static void a_packet_is_its_contents(void **state)
{
    (void)state;
    assert_int_equal(feed("$qC#b4"), GDB_PACKET);
    assert_string_equal(reader.packet, "qC");
    assert_int_equal(reader.len, 2);
    assert_int_equal(feed("$#00"), GDB_PACKET);
    assert_int_equal(reader.len, 0);
    assert_int_equal(feed("$qC#B4"), GDB_PACKET);
}

static void what_stands_outside_of_packets_is_noise_or_a_sign(void **state)
{
    (void)state;
    assert_int_equal(feed("hello #12"), GDB_NOTHING);
    assert_int_equal(feed("+"), GDB_ACK);
    assert_int_equal(feed("-"), GDB_NAK);
    assert_int_equal(feed("\x03"), GDB_INTERRUPT);
    assert_int_equal(feed("\xff$g#67"), GDB_PACKET);
}

static void a_wrong_checksum_is_damage(void **state)
{
    (void)state;
    assert_int_equal(feed("$qC#b5"), GDB_DAMAGED);
    assert_int_equal(feed("$qC#4b"), GDB_DAMAGED);
    assert_int_equal(feed("$qC#xy"), GDB_DAMAGED);
    assert_int_equal(feed("$qC#b\n"), GDB_DAMAGED);
    assert_int_equal(feed("$qC#b4"), GDB_PACKET);
}

static void a_packet_whose_end_was_lost_gives_way_to_the_next(void **state)
{
    (void)state;
    assert_int_equal(feed("$m1234,$qC#b4"), GDB_PACKET);
    assert_string_equal(reader.packet, "qC");
}

static void a_packet_of_the_greatest_length_fits_and_one_more_byte_does_not(void **state)
{
    char sum[3];

    (void)state;
    for (unsigned more = 0; more < 2; more++) {
        size_t n = GDB_PACKET_MAX + more;

        assert_int_equal(gdb_reader_feed(&reader, '$'), GDB_NOTHING);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(gdb_reader_feed(&reader, 'a'), GDB_NOTHING);
        snprintf(sum, sizeof(sum), "%02x", (unsigned)(n * 'a') & 0xff);
        gdb_reader_feed(&reader, '#');
        gdb_reader_feed(&reader, (uint8_t)sum[0]);
        assert_int_equal(gdb_reader_feed(&reader, (uint8_t)sum[1]), more ? GDB_TOO_LONG : GDB_PACKET);
    }
    assert_int_equal(feed("$qC#b4"), GDB_PACKET);
}

static struct gdb_scan scan(const char *text)
{
    return (struct gdb_scan){text, text + strlen(text)};
}

static void numbers_are_hexadecimal_and_of_64_bits(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {
        {"0", true, 0},
        {"fF", true, 255},
        {"ffffffffffffffff", true, UINT64_MAX},
        {"0000000000000000a", false, 0},
        {"", false, 0},
        {"10000000000000000", false, 0},
        {"-1", false, 0},
        {"x", false, 0},
        {"1x", true, 1},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct gdb_scan s = scan(cases[i].text);
        uint64_t value;

        assert_int_equal(gdb_scan_number(&s, &value), cases[i].good);
        if (cases[i].good)
            assert_int_equal(value, cases[i].value);
    }
}

static void bytes_are_two_digits_or_escaped(void **state)
{
    struct gdb_scan s = scan("00ffAb");
    uint8_t bytes[4];

    (void)state;
    assert_true(gdb_scan_hex(&s, bytes, 3));
    assert_true(gdb_scan_done(&s));
    assert_memory_equal(bytes, "\x00\xff\xab", 3);
    s = scan("12345");
    assert_false(gdb_scan_hex(&s, bytes, 3));
    s = scan("1x");
    assert_false(gdb_scan_hex(&s, bytes, 1));
    s = scan("a}\x03}]z");
    assert_true(gdb_scan_binary(&s, bytes, 4));
    assert_memory_equal(bytes, "a#}z", 4);
    s = scan("ab");
    assert_false(gdb_scan_binary(&s, bytes, 1)); /* more than was announced */
    s = scan("a}");
    assert_false(gdb_scan_binary(&s, bytes, 2));
    s = scan("");
    assert_true(gdb_scan_binary(&s, bytes, 0));
}

static void a_reply_is_framed_with_its_checksum(void **state)
{
    static struct gdb_reply reply;
    static char frame[GDB_FRAME_MAX];

    (void)state;
    gdb_reply_clear(&reply);
    gdb_reply_text(&reply, "T%02x", 5);
    gdb_reply_hex(&reply, "\x00\xa5", 2);
    assert_int_equal(gdb_reply_binary(&reply, "#$}*x", 5), 5);
    size_t len = gdb_frame(&reply, frame);
    for (size_t i = 0; i + 1 < len; i++)
        assert_int_equal(gdb_reader_feed(&reader, (uint8_t)frame[i]), GDB_NOTHING);
    assert_int_equal(gdb_reader_feed(&reader, (uint8_t)frame[len - 1]), GDB_PACKET);
    assert_string_equal(reader.packet, "T0500a5}\x03}\x04}]}\nx");
}

static void what_does_not_fit_into_a_reply_is_left_out(void **state)
{
    static struct gdb_reply reply;
    static uint8_t bytes[GDB_PACKET_MAX];

    (void)state;
    gdb_reply_clear(&reply);
    gdb_reply_hex(&reply, bytes, GDB_PACKET_MAX / 2);
    assert_false(reply.full);
    assert_int_equal(reply.len, GDB_PACKET_MAX);
    gdb_reply_text(&reply, "x");
    assert_true(reply.full);
    assert_int_equal(reply.len, GDB_PACKET_MAX);
    gdb_reply_clear(&reply);
    memset(bytes, '#', sizeof(bytes));
    assert_int_equal(gdb_reply_binary(&reply, bytes, sizeof(bytes)), GDB_PACKET_MAX / 2);
    gdb_reply_hex(&reply, bytes, 1);
    assert_true(reply.full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_packet_is_its_contents, setup),
        cmocka_unit_test_setup(what_stands_outside_of_packets_is_noise_or_a_sign, setup),
        cmocka_unit_test_setup(a_wrong_checksum_is_damage, setup),
        cmocka_unit_test_setup(a_packet_whose_end_was_lost_gives_way_to_the_next, setup),
        cmocka_unit_test_setup(a_packet_of_the_greatest_length_fits_and_one_more_byte_does_not, setup),
        cmocka_unit_test_setup(numbers_are_hexadecimal_and_of_64_bits, setup),
        cmocka_unit_test_setup(bytes_are_two_digits_or_escaped, setup),
        cmocka_unit_test_setup(a_reply_is_framed_with_its_checksum, setup),
        cmocka_unit_test_setup(what_does_not_fit_into_a_reply_is_left_out, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
