#pragma once
// Where a run comes from: enough to find the same code, data and settings again.

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/core/filesystem.h>
#include <trainer/data/data_module.h>

namespace trainer {

/// Git commit and whether the tree had changes (of the current folder's repository, null outside of
/// one), build id of the running library, versions, command line, seed, host, number of processes,
/// start time in UTC. Runs `git`; everything else is read from this process.
nlohmann::json provenance(uint64_t seed);

/// Adds the provenance of this start, with the checksums of the data, to
/// `<run_dir>/provenance.json`: a list, one entry for each time the run was started or resumed.
/// Throws IoError.
void write_provenance(const fs::Path& run_dir, const DataModule& data);

}  // namespace trainer
