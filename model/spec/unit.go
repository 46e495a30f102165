package spec

import (
	"fmt"
	"strings"
)

// Kind is what a unit is in the decoder.
type Kind uint8

// The kinds of unit, in the order in which a forward pass meets them.
const (
	Embedding Kind = iota + 1 // token embedding, [V, D]
	Block                     // attention and feed-forward with their norms
	Head                      // the last norm and, untied, the output matrix
)

func (k Kind) String() string {
	switch k {
	case Embedding:
		return "embedding"
	case Block:
		return "block"
	case Head:
		return "head"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Names of the tensors outside the blocks.
const (
	EmbedName  = "model.embed_tokens.weight"
	NormName   = "model.norm.weight"
	LMHeadName = "lm_head.weight"
)

// Tensor is one parameter tensor in its unit's flat buffer.
type Tensor struct {
	Name   string // Hugging Face's name
	Shape  []int  // row-major; a matrix is [out, in]
	Offset int    // of its first element in the unit's flat buffer, in elements
	Elems  int    // product of Shape
}

// End is the offset just after the tensor's last element.
func (t Tensor) End() int { return t.Offset + t.Elems }

// Unit is what ZeRO gathers, uses and frees as one. Its tensors lie end to end in one
// flat buffer, without gaps, in Hugging Face's definition order.
type Unit struct {
	Name    string   // "embed", "block.0" ..., "head"
	Kind    Kind     //
	Layer   int      // a block's number from 0; -1 otherwise
	Tensors []Tensor // ascending offsets, from 0
	Elems   int      // sum of the tensors', without a layout's padding
}

// Tensor finds a tensor by its name or by the end of its name after a dot: in a block,
// "self_attn.q_proj.weight" and "q_proj.weight" are the same tensor.
func (u Unit) Tensor(suffix string) (Tensor, bool) {
	for _, t := range u.Tensors {
		if t.Name == suffix || strings.HasSuffix(t.Name, "."+suffix) {
			return t, true
		}
	}
	return Tensor{}, false
}

// Units lists the model's units in the order of a forward pass: embed, block.0 ... , head.
// The concatenation of their tensors is the canonical order of the model's parameters.
//
// In a block q_proj [H*K, D], k_proj and v_proj [G*K, D] are neighbours, so together they
// are one [(H+2G)*K, D] matrix; gate_proj and up_proj, [F, D] each, are one [2F, D].
// A tied model has no lm_head.weight: the embedding's matrix belongs to the embedding.
func (c Config) Units() []Unit {
	units := make([]Unit, 0, c.Layers+2)
	units = append(units, newUnit("embed", Embedding, -1, Tensor{Name: EmbedName, Shape: []int{c.Vocab, c.Width}}))
	for n := range c.Layers {
		units = append(units, c.block(n))
	}
	head := []Tensor{{Name: NormName, Shape: []int{c.Width}}}
	if !c.Tied {
		head = append(head, Tensor{Name: LMHeadName, Shape: []int{c.Vocab, c.Width}})
	}
	return append(units, newUnit("head", Head, -1, head...))
}

// block is the order of definition in transformers' LlamaDecoderLayer.
func (c Config) block(n int) Unit {
	q, kv := c.Heads*c.HeadWidth, c.KVHeads*c.HeadWidth
	name := func(s string) string { return fmt.Sprintf("model.layers.%d.%s.weight", n, s) }
	return newUnit(fmt.Sprintf("block.%d", n), Block, n,
		Tensor{Name: name("self_attn.q_proj"), Shape: []int{q, c.Width}},
		Tensor{Name: name("self_attn.k_proj"), Shape: []int{kv, c.Width}},
		Tensor{Name: name("self_attn.v_proj"), Shape: []int{kv, c.Width}},
		Tensor{Name: name("self_attn.o_proj"), Shape: []int{c.Width, q}},
		Tensor{Name: name("mlp.gate_proj"), Shape: []int{c.FeedForward, c.Width}},
		Tensor{Name: name("mlp.up_proj"), Shape: []int{c.FeedForward, c.Width}},
		Tensor{Name: name("mlp.down_proj"), Shape: []int{c.Width, c.FeedForward}},
		Tensor{Name: name("input_layernorm"), Shape: []int{c.Width}},
		Tensor{Name: name("post_attention_layernorm"), Shape: []int{c.Width}},
	)
}

// newUnit places the tensors end to end.
func newUnit(name string, kind Kind, layer int, tensors ...Tensor) Unit {
	u := Unit{Name: name, Kind: kind, Layer: layer, Tensors: tensors}
	for i := range tensors {
		t := &tensors[i]
		t.Offset, t.Elems = u.Elems, 1
		for _, n := range t.Shape {
			t.Elems *= n
		}
		u.Elems += t.Elems
	}
	return u
}

// Params is the number of the model's parameters, a tied matrix counted once.
func (c Config) Params() int64 {
	var n int64
	for _, u := range c.Units() {
		n += int64(u.Elems)
	}
	return n
}
