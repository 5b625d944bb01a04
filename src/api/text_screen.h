/* The text screen of a VGA card, as a kernel writes it into memory: characters of code page 437 with their colours. */
#pragma once

#include "base/types.h"

#define TEXT_SCREEN_GPA 0xb8000
#define TEXT_SCREEN_COLUMNS 80
#define TEXT_SCREEN_ROWS 25
#define TEXT_SCREEN_ROW_BYTES (TEXT_SCREEN_COLUMNS * 2) /* a cell is a character and an attribute */
#define TEXT_SCREEN_LINE (TEXT_SCREEN_COLUMNS * 3 + 1)  /* no character of the code page is longer in UTF-8 */

/* A row as UTF-8, 80 characters. */
void text_screen_line(const uint8_t cells[TEXT_SCREEN_ROW_BYTES], char line[TEXT_SCREEN_LINE]);

/* The row's attributes, two hexadecimal digits each: background (with the blink bit) and foreground. */
void text_screen_attributes(const uint8_t cells[TEXT_SCREEN_ROW_BYTES], char digits[TEXT_SCREEN_COLUMNS * 2 + 1]);

/* The escape sequence with which a terminal shows an attribute: ECMA-48 SGR, with the bright colours of xterm. Returns buf. */
#define TEXT_SCREEN_SGR 24
const char *text_screen_sgr(uint8_t attribute, char buf[TEXT_SCREEN_SGR]);
