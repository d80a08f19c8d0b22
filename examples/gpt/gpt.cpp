// A language model of GPT-2's shape, from stock torch::nn parts only.
//
//   build/bin/trainer fit --config configs/gpt_bytes.yaml       prints a sample at the end, see
//   README.md
//
// Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; sizes and
// initialisation as there.

#include <algorithm>

#include <trainer/api.h>

namespace L = trainer;
namespace F = torch::nn::functional;
namespace nn = torch::nn;

/// Pre-norm attention and MLP with residual connections: [batch, seq, dim] to the same.
struct BlockImpl : nn::Module {
  BlockImpl(int64_t dim, int64_t num_heads, double dropout)
      : heads(num_heads),
        ln1(register_module("ln1", nn::LayerNorm(nn::LayerNormOptions({dim})))),
        qkv(register_module("qkv", nn::Linear(dim, 3 * dim))),
        proj(register_module("proj", nn::Linear(dim, dim))),
        ln2(register_module("ln2", nn::LayerNorm(nn::LayerNormOptions({dim})))),
        fc(register_module("fc", nn::Linear(dim, 4 * dim))),
        out(register_module("out", nn::Linear(4 * dim, dim))),
        drop(register_module("drop", nn::Dropout(dropout))) {}

  torch::Tensor forward(torch::Tensor x) {
    x = x + drop(attention(ln1(x)));
    return x + drop(out(F::gelu(fc(ln2(x)), F::GELUFuncOptions().approximate("tanh"))));
  }

  torch::Tensor attention(const torch::Tensor& x) {
    const auto batch = x.size(0), seq = x.size(1), dim = x.size(2);
    const auto parts =
        qkv(x).view({batch, seq, 3, heads, dim / heads}).permute({2, 0, 3, 1, 4}).unbind(0);
    const auto y =
        at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0, /*is_causal=*/true);
    return proj(y.transpose(1, 2).reshape({batch, seq, dim}));
  }

  int64_t heads;
  nn::LayerNorm ln1;
  nn::Linear qkv, proj;
  nn::LayerNorm ln2;
  nn::Linear fc, out;
  nn::Dropout drop;
};
TORCH_MODULE(Block);

class GPT : public L::Module {
 public:
  static constexpr const char* kDoc = "GPT-2-shaped language model.";

  struct Init {
    int64_t vocab_size = 256;
    int64_t block_size = 64;
    int64_t num_layers = 2;
    int64_t num_heads = 4;
    int64_t dim = 128;
    double dropout = 0.0;
    double lr = 1e-3;
    double weight_decay = 0.1;
    int64_t warmup_steps = 50;
    int64_t total_steps = 2000;
    std::string sample_prompt = "";
    int64_t sample_tokens = 200;

    static constexpr auto fields() {
      using L::config::field, L::config::at_least, L::config::in_range;
      return std::tuple{
          field<&Init::vocab_size>("Number of different tokens.", at_least(1)),
          field<&Init::block_size>("Longest sequence.", at_least(1)),
          field<&Init::num_layers>("Blocks.", at_least(1)),
          field<&Init::num_heads>("Attention heads; must divide dim.", at_least(1)),
          field<&Init::dim>("Width of the residual stream.", at_least(1)),
          field<&Init::dropout>("Dropout on both residual branches.", in_range(0.0, 1.0)),
          field<&Init::lr>("Peak learning rate.", at_least(0.0)),
          field<&Init::weight_decay>("Decoupled weight decay of matrices; vectors have none.",
                                     at_least(0.0)),
          field<&Init::warmup_steps>("Optimizer steps of linear warm-up.", at_least(0)),
          field<&Init::total_steps>("Optimizer steps until the learning rate reaches a tenth.",
                                    at_least(1)),
          field<&Init::sample_prompt>("Text to continue when training ends; empty for no sample."),
          field<&Init::sample_tokens>("Tokens to sample.", at_least(1))};
    }
    void validate() const {
      if (dim % num_heads != 0) {
        throw L::ConfigError("num_heads is " + std::to_string(num_heads) +
                             ", which does not divide dim, " + std::to_string(dim) + ".");
      }
    }
  };

  explicit GPT(Init init)
      : init_(std::move(init)),
        wte_(register_module("wte", nn::Embedding(init_.vocab_size, init_.dim))),
        wpe_(register_module("wpe", nn::Embedding(init_.block_size, init_.dim))),
        h_(register_module("h", nn::ModuleList())),
        ln_f_(register_module("ln_f", nn::LayerNorm(nn::LayerNormOptions({init_.dim})))),
        lm_head_(register_module(
            "lm_head", nn::Linear(nn::LinearOptions(init_.dim, init_.vocab_size).bias(false)))) {
    for (int64_t i = 0; i < init_.num_layers; ++i) {
      h_->push_back(Block(init_.dim, init_.num_heads, init_.dropout));
    }
    initialise();
  }

  /// Tokens [batch, seq] to logits [batch, seq, vocab_size].
  torch::Tensor forward(const torch::Tensor& tokens) {
    if (tokens.size(1) > init_.block_size) {
      throw L::ConfigError("GPT: a sequence has " + std::to_string(tokens.size(1)) +
                           " tokens, and block_size is " + std::to_string(init_.block_size) +
                           ". Raise the model's, or lower the data's.");
    }
    auto x = wte_(tokens) + wpe_(torch::arange(tokens.size(1), tokens.options()));
    for (const auto& block : *h_) {
      x = L::checkpointed(block->as<Block>(), x);
    }
    return lm_head_(ln_f_(x));
  }

  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    auto loss = next_token_loss(batch);
    log("train_loss", loss, {.prog_bar = true});
    return loss;
  }

  void validation_step(const L::Batch& batch, int64_t) override {
    log("val_loss", next_token_loss(batch), {.prog_bar = true});
  }
  void test_step(const L::Batch& batch, int64_t) override {
    log("test_loss", next_token_loss(batch));
  }

  L::OptimizerConfig configure_optimizers() override {
    std::vector<torch::Tensor> matrices, vectors;
    for (const auto& parameter : parameters()) {
      (parameter.dim() >= 2 ? matrices : vectors).push_back(parameter);
    }
    const auto options = [&](double weight_decay) {
      return std::make_unique<L::optim::AdamWOptions>(
          L::optim::AdamWOptions(init_.lr).betas({0.9, 0.95}).weight_decay(weight_decay));
    };
    auto optimizer =
        std::make_unique<L::optim::AdamW>(std::vector<torch::optim::OptimizerParamGroup>{
            {matrices, options(init_.weight_decay)}, {vectors, options(0)}});
    auto schedule =
        std::make_unique<L::WarmupCosineLR>(*optimizer, init_.warmup_steps, init_.total_steps, 0.1);
    return {std::move(optimizer),
            {.scheduler = std::move(schedule), .interval = L::Interval::kStep}};
  }

  void on_train_end() override {
    if (!init_.sample_prompt.empty()) {
      std::string text = sample(init_.sample_prompt, init_.sample_tokens);
      // An untrained model yields any byte; a terminal should see text only.
      const auto is_odd = [](char c) { return c != '\n' && (c < ' ' || c > '~'); };
      std::replace_if(text.begin(), text.end(), is_odd, '?');
      L::console::print("sample: " + text + "\n");
    }
  }

  /// Continues a text byte by byte.
  std::string sample(std::string text, int64_t num_tokens) {
    const torch::NoGradGuard no_grad;
    eval();
    for (int64_t i = 0; i < num_tokens; ++i) {
      const auto begin =
          text.size() > static_cast<size_t>(init_.block_size) ? text.size() - init_.block_size : 0;
      std::vector<int64_t> context;
      for (size_t k = begin; k < text.size(); ++k) {
        context.push_back(static_cast<unsigned char>(text[k]));
      }
      const auto logits = forward(torch::tensor(context).unsqueeze(0)).select(0, 0)[-1];
      text += static_cast<char>(logits.div(0.8).softmax(0).multinomial(1).item<int64_t>());
    }
    train();
    return text;
  }

 private:
  torch::Tensor next_token_loss(const L::Batch& batch) {
    auto [x, y] = batch.unpack<2>();  // [batch, seq] int64 each
    return F::cross_entropy(forward(x).flatten(0, 1), y.flatten());
  }

  void initialise() {
    const torch::NoGradGuard no_grad;
    for (auto& item : named_parameters()) {
      auto& parameter = item.value();
      if (parameter.dim() >= 2) {
        // Layers that write into the residual stream start smaller the more of them there are.
        const bool is_residual =
            item.key().ends_with("proj.weight") || item.key().ends_with("out.weight");
        parameter.normal_(
            0, 0.02 / (is_residual ? std::sqrt(2.0 * static_cast<double>(init_.num_layers)) : 1.0));
      } else if (item.key().ends_with("bias")) {
        parameter.zero_();
      }
    }
  }

  Init init_;
  nn::Embedding wte_, wpe_;
  nn::ModuleList h_;
  nn::LayerNorm ln_f_;
  nn::Linear lm_head_;
};

TRAINER_REGISTER_MODULE(GPT);
