"""Formats of lines: how a line is read (lines), recognised (table), and made an example (traces,
chats, pairs, exports)."""
