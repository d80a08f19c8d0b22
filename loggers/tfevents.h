#pragma once
// TensorBoard's event files: the records, and the few protobuf messages that scalars need, encoded
// by hand so that no protobuf library is needed. Use TensorBoardLogger to log; this is its format.
//
// A file is a sequence of records, each holding one Event. Sources: records as in TensorFlow's
// record_writer (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details),
// messages as in TensorBoard's compat/proto/event.proto and summary.proto, bytes as in
// https://protobuf.dev/programming-guides/encoding.

#include <cstdint>
#include <string>
#include <string_view>

namespace trainer::tfevents {

/// CRC-32C (Castagnoli), RFC 3720 appendix B.4.
uint32_t crc32c(std::string_view data);

/// u64 length, u32 masked CRC of the length, the event, u32 masked CRC of the event; little-endian.
std::string record(std::string_view event);

/// The event that opens a file.
std::string file_version_event(double wall_time_s);

/// A session starts at `step`: readers drop points of that step and later ones that they have read
/// before. The first such event of a run's folder they take as the start of the run, which drops
/// nothing.
std::string session_start_event(double wall_time_s, int64_t step);

/// Appends one scalar to the bytes of a Summary. Bytes of the tag that are not UTF-8 become U+FFFD,
/// since readers would stop at them. `with_metadata` names the plug-in that shows the tag
/// ("scalars"); once per tag and file is enough.
void append_scalar(std::string& summary, std::string_view tag, float value, bool with_metadata);

/// The scalars of one step.
std::string summary_event(double wall_time_s, int64_t step, std::string_view summary);

}  // namespace trainer::tfevents
