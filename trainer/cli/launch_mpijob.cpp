#include <trainer/cli/launch_mpijob.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>

namespace trainer {
namespace {

/// What a pod gets to save a checkpoint when it has to go.
constexpr int kGraceSeconds = 120;
/// Where mpi-operator puts the names of the workers, and the image of docs/launch.md its keys.
constexpr const char* kHostfile = "/etc/mpi/hostfile";
constexpr const char* kHome = "/home/mpiuser";
constexpr const char* kShared = "/shared";

/// Every text of JSON is one of YAML.
std::string quoted(const std::string& text) {
  const nlohmann::json value(text);
  try {
    return value.dump();
  } catch (const nlohmann::json::type_error&) {
    throw ConfigError(fmt::format(
        "launch: --emit mpijob: the argument {} is not UTF-8, as YAML has to be. Give it, or the "
        "file that it names, a name in UTF-8.",
        value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
}

std::string list_of(const std::vector<std::string>& words) {
  std::vector<std::string> items;
  for (const auto& word : words) {
    items.push_back(quoted(word));
  }
  return fmt::format("[{}]", fmt::join(items, ", "));
}

/// The pod of launcher or worker. Both see the volume: there the launcher learns what is saved.
std::string pod(const LaunchOptions& options, const std::string& name, const std::string& command) {
  std::string text = fmt::format(
      "      template:\n"
      "        spec:\n"
      "          terminationGracePeriodSeconds: {}\n"
      "          containers:\n"
      "            - name: {}\n"
      "              image: {}\n"
      "              securityContext:\n"
      "                runAsUser: 1000\n"
      "{}",
      kGraceSeconds, name, quoted(options.image), command);
  if (!options.claim.empty()) {
    text += fmt::format(
        "              workingDir: {0}\n"
        "              volumeMounts:\n"
        "                - name: shared\n"
        "                  mountPath: {0}\n"
        "          volumes:\n"
        "            - name: shared\n"
        "              persistentVolumeClaim:\n"
        "                claimName: {1}\n",
        kShared, quoted(options.claim));
  }
  return text;
}

std::vector<std::string> launcher_command(const LaunchOptions& options, int64_t num_ranks) {
  std::vector<std::string> words = {"trainer", "launch", "--hostfile",
                                    kHostfile, "-n",     std::to_string(num_ranks)};
  words.insert(words.end(), {"--max-restarts", std::to_string(options.max_restarts)});
  words.insert(words.end(), {"--host-wait", std::to_string(options.host_wait_s)});
  if (options.min_ranks) {
    words.insert(words.end(), {"--min-ranks", std::to_string(*options.min_ranks)});
  }
  for (const int exit_code : options.restart_on) {
    words.insert(words.end(), {"--restart-on", std::to_string(exit_code)});
  }
  words.emplace_back("--");
  words.insert(words.end(), options.program.begin(), options.program.end());
  return words;
}

}  // namespace

std::string mpijob(const LaunchOptions& options) {
  if (!options.num_ranks || *options.num_ranks % options.num_nodes != 0) {
    throw ConfigError(fmt::format(
        "launch: --emit mpijob needs -n, the number of ranks, as a multiple of --nodes {}.",
        options.num_nodes));
  }
  if (!options.hosts.empty() || !options.hostfile.empty()) {
    throw ConfigError(
        "launch: --emit mpijob has the cluster choose the hosts. Leave --hosts and "
        "--hostfile out, and say how many by --nodes.");
  }
  check_min_ranks(options, *options.num_ranks);
  const std::string command = list_of(launcher_command(options, *options.num_ranks));
  return fmt::format(
      "apiVersion: kubeflow.org/v2beta1\n"
      "kind: MPIJob\n"
      "metadata:\n"
      "  name: trainer-{}\n"
      "spec:\n"
      "  slotsPerWorker: {}\n"
      "  mpiImplementation: OpenMPI\n"
      "  sshAuthMountPath: {}/.ssh\n"
      "  launcherCreationPolicy: WaitForWorkersReady\n"
      "  runPolicy:\n"
      "    cleanPodPolicy: Running\n"
      "    backoffLimit: 0\n"
      "  mpiReplicaSpecs:\n"
      "    Launcher:\n"
      "      replicas: 1\n"
      "      restartPolicy: Never\n"
      "{}"
      "    Worker:\n"
      "      replicas: {}\n"
      "      restartPolicy: OnFailure\n"
      "{}",
      options.program[0], *options.num_ranks / options.num_nodes, kHome,
      pod(options, "launcher", fmt::format("              command: {}\n", command)),
      options.num_nodes,
      pod(options, "worker",
          fmt::format("              command: [\"/usr/sbin/sshd\"]\n"
                      "              args: [\"-De\", \"-f\", \"{}/.sshd_config\"]\n",
                      kHome)));
}

}  // namespace trainer
