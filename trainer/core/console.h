#pragma once
// The terminal as the rest of the engine sees it: whole lines, and one status line below them that
// is redrawn, so that a progress bar and log lines never tear each other apart.

#include <string>
#include <string_view>

namespace trainer::console {

/// Whether standard error is a terminal that can redraw a line (not TERM=dumb, not CI), or what a
/// launcher passes on to one, as kTerminalVariable says.
bool is_live();

/// Holds the columns of the terminal that the launcher's standard error is.
inline constexpr const char* kTerminalVariable = "TRAINER_TERMINAL_COLUMNS";

/// Columns of the terminal, 80 where that is unknown.
int columns();

/// Writes one line to standard error above the status line.
void write_line(std::string_view line);

/// Writes text to standard output (results a script may read), with the status line out of the way.
void print(std::string_view text);

/// Writes one line to standard error in any case; for errors.
void write_error(std::string_view line);

/// Shows `text` below everything else until it is replaced or cleared; nothing where is_live() is
/// false.
void set_status(std::string text);
void clear_status();

/// From now on only write_error() writes: one process of many has the terminal.
void mute();

}  // namespace trainer::console
