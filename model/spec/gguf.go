package spec

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/zerofleet/zerofleet/gguf"
)

// Names of tensors in a GGUF file that decide the configuration.
const (
	ggufEmbed     = "token_embd.weight"
	ggufHead      = "output.weight"
	ggufRopeFreqs = "rope_freqs.weight" // [K/2]: what each rotary frequency is divided by
)

// FromGGUF reads the configuration of a GGUF file of the llama architecture, which holds
// Llama, Mistral and SmolLM2 models alike. A file without output.weight is tied. The error
// wraps ErrUnsupported when the file is sound but the decoder lacks what it asks for.
func FromGGUF(f *gguf.File) (Config, error) {
	c, err := fromGGUF(f)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", f.Path(), err)
	}
	return c, nil
}

func fromGGUF(f *gguf.File) (Config, error) {
	m := ggufReader{meta: f.Metadata()}
	if architecture := m.text("general.architecture"); m.err == nil && architecture != "llama" {
		return Config{}, fmt.Errorf("%w: GGUF architecture %q: want llama", ErrUnsupported, architecture)
	}
	c := Config{
		Architecture: Llama,
		Width:        m.int("llama.embedding_length"),
		Layers:       m.int("llama.block_count"),
		Heads:        m.int("llama.attention.head_count"),
		FeedForward:  m.int("llama.feed_forward_length"),
		MaxPositions: m.int("llama.context_length"),
		NormEps:      m.float("llama.attention.layer_norm_rms_epsilon"),
		RopeTheta:    m.floatOr("llama.rope.freq_base", 10000),
		BOS:          m.intOr("tokenizer.ggml.bos_token_id", -1),
		Pad:          m.intOr("tokenizer.ggml.padding_token_id", -1),
	}
	if m.err != nil {
		return Config{}, m.err
	}
	if c.Heads < 1 {
		return Config{}, fmt.Errorf("metadata llama.attention.head_count: %d: want at least 1", c.Heads)
	}
	c.KVHeads = m.intOr("llama.attention.head_count_kv", c.Heads)
	c.HeadWidth = m.intOr("llama.attention.key_length", c.Width/c.Heads)
	for _, key := range []string{"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"} {
		if id := m.intOr(key, -1); id >= 0 {
			c.EOS = append(c.EOS, id)
		}
	}
	c.EOS = unique(c.EOS)
	embed, ok := f.Tensor(ggufEmbed)
	if !ok || len(embed.Shape) != 2 {
		return Config{}, fmt.Errorf("tensor %q: missing, or not a matrix", ggufEmbed)
	}
	c.Vocab = embed.Shape[0]
	_, untied := f.Tensor(ggufHead)
	c.Tied = !untied
	if err := m.unsupported(c); err != nil {
		return Config{}, err
	}
	return c, m.rope(f, &c)
}

// unsupported names every setting that the decoder does not have.
func (m *ggufReader) unsupported(c Config) error {
	var all faults
	only := func(key string, want int) {
		if got := m.intOr(key, want); m.err == nil && got != want {
			all = append(all, fmt.Errorf("%w: metadata %s: %d: want %d", ErrUnsupported, key, got, want))
		}
	}
	only("llama.expert_count", 0)
	only("llama.attention.value_length", c.HeadWidth)
	only("llama.rope.dimension_count", c.HeadWidth)
	only("split.count", min(1, m.intOr("split.count", 1)))
	if m.meta.Has("llama.attention.scale") {
		all = append(all, fmt.Errorf("%w: metadata llama.attention.scale: want none", ErrUnsupported))
	}
	if m.err != nil {
		all = append(all, m.err)
	}
	return all.orNil()
}

// rope reads the rotary scaling: by name, or as Llama 3's factors in a tensor.
func (m *ggufReader) rope(f *gguf.File, c *Config) error {
	kind := m.textOr("llama.rope.scaling.type", "none")
	factor := m.floatOr("llama.rope.scaling.factor", 1)
	if m.err != nil {
		return m.err
	}
	switch {
	case kind == "linear" && factor != 1:
		c.RopeScaling = &RopeScaling{Type: RopeLinear, Factor: factor}
	case kind != "linear" && kind != "none":
		return fmt.Errorf("%w: metadata llama.rope.scaling.type: %q: want one of none, linear", ErrUnsupported, kind)
	}
	t, ok := f.Tensor(ggufRopeFreqs)
	if !ok {
		return nil
	}
	if c.RopeScaling != nil || c.HeadWidth < 2 || t.Elems != c.HeadWidth/2 {
		return fmt.Errorf("tensor %q: %v: want [%d], and no other rotary scaling", ggufRopeFreqs, t.Shape, c.HeadWidth/2)
	}
	factors := make([]float32, t.Elems)
	if err := f.ReadF32(t.Name, 0, t.Elems, factors); err != nil {
		return err
	}
	return c.llama3FromFactors(factors)
}

// llama3FromFactors finds the Llama 3 scaling behind a converter's table of factors. All
// Llama 3.x models have the same constants but for the factor, which is the table's
// largest entry. A table that is not made so is refused.
func (c *Config) llama3FromFactors(factors []float32) error {
	plain := c.InvFreq()
	s := RopeScaling{Type: RopeLlama3, Factor: 1, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositions: 8192}
	for _, v := range factors {
		s.Factor = max(s.Factor, float64(v))
	}
	if s.Factor == 1 {
		return nil
	}
	for i, got := range factors {
		want := float64(plain[i]) / float64(s.llama3(plain[i]))
		if !(math.Abs(float64(got)-want) <= 1e-4*want) {
			return fmt.Errorf("%w: tensor %q: entry %d is %g, but Llama 3's scaling by %g has %g", ErrUnsupported, ggufRopeFreqs, i, got, s.Factor, want)
		}
	}
	c.RopeScaling = &s
	return nil
}

// GGUFTensor is where one of a Config's tensors lies in a GGUF file.
type GGUFTensor struct {
	Name string

	// half is K/2 where the file interleaves the rows of each head, else 0.
	half int
}

// Row is the file's row that holds row n of the Hugging Face tensor. In q_proj and k_proj
// the file keeps the two rows of a rotary pair together, 2i and 2i+1 of a head; Hugging
// Face has them at i and i+K/2. All other rows stay.
//
// Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute.
func (g GGUFTensor) Row(n int) int {
	if g.half == 0 {
		return n
	}
	head, in := n/(2*g.half), n%(2*g.half)
	return head*2*g.half + 2*(in%g.half) + in/g.half
}

// Permuted tells whether Row moves any row.
func (g GGUFTensor) Permuted() bool { return g.half > 1 }

// ggufBlock maps the end of a Hugging Face name in a block to GGUF's.
var ggufBlock = map[string]string{
	"self_attn.q_proj.weight":         "attn_q.weight",
	"self_attn.k_proj.weight":         "attn_k.weight",
	"self_attn.v_proj.weight":         "attn_v.weight",
	"self_attn.o_proj.weight":         "attn_output.weight",
	"mlp.gate_proj.weight":            "ffn_gate.weight",
	"mlp.up_proj.weight":              "ffn_up.weight",
	"mlp.down_proj.weight":            "ffn_down.weight",
	"input_layernorm.weight":          "attn_norm.weight",
	"post_attention_layernorm.weight": "ffn_norm.weight",
}

// GGUF finds a tensor's place in a GGUF file by its Hugging Face name; false for a name
// that Units does not list.
func (c Config) GGUF(name string) (GGUFTensor, bool) {
	switch name {
	case EmbedName:
		return GGUFTensor{Name: ggufEmbed}, true
	case NormName:
		return GGUFTensor{Name: "output_norm.weight"}, true
	case LMHeadName:
		return GGUFTensor{Name: ggufHead}, !c.Tied
	}
	rest, ok := strings.CutPrefix(name, "model.layers.")
	layer, suffix, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(layer)
	if !ok || err != nil || n < 0 || n >= c.Layers || strconv.Itoa(n) != layer || ggufBlock[suffix] == "" {
		return GGUFTensor{}, false
	}
	g := GGUFTensor{Name: fmt.Sprintf("blk.%d.%s", n, ggufBlock[suffix])}
	if suffix == "self_attn.q_proj.weight" || suffix == "self_attn.k_proj.weight" {
		g.half = c.HeadWidth / 2
	}
	return g, true
}

// ggufReader reads metadata; after the first fault it returns zeros, and err tells it.
type ggufReader struct {
	meta gguf.Metadata
	err  error
}

func (m *ggufReader) int(key string) int { return ggufGet(m, key, m.meta.Int) }

func (m *ggufReader) text(key string) string { return ggufGet(m, key, m.meta.Text) }

// float undoes the widening of a decimal number that the file holds as f32: 1e-5 comes back
// as 1e-5, not 9.999999747378752e-06.
func (m *ggufReader) float(key string) float64 {
	v := ggufGet(m, key, m.meta.Float)
	if float64(float32(v)) == v {
		v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', -1, 32), 64)
	}
	return v
}

func (m *ggufReader) intOr(key string, absent int) int {
	if !m.meta.Has(key) {
		return absent
	}
	return m.int(key)
}

func (m *ggufReader) textOr(key, absent string) string {
	if !m.meta.Has(key) {
		return absent
	}
	return m.text(key)
}

func (m *ggufReader) floatOr(key string, absent float64) float64 {
	if !m.meta.Has(key) {
		return absent
	}
	return m.float(key)
}

func ggufGet[T any](m *ggufReader, key string, get func(string) (T, error)) T {
	v, err := get(key)
	if err != nil && m.err == nil {
		m.err = err
	}
	return v
}
