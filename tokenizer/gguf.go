package tokenizer

import (
	"errors"
	"fmt"

	"github.com/zerofleet/zerofleet/gguf"
)

// The kinds of a GGUF vocabulary's tokens.
// Source: github.com/ggml-org/ggml, docs/gguf.md, tokenizer.ggml.token_type.
const (
	ggufControl     = 3
	ggufUserDefined = 4
	ggufUnused      = 5
)

// ggufSplit describes the files that a tokenizer.ggml.pre stands for: what their
// tokenizer.json has where GGUF has only a name.
type ggufSplit struct {
	pattern      string // of a Split before ByteLevel; "": ByteLevel's own, which is GPT-2's
	digits       bool   // Digits, one by one, first
	ignoreMerges bool
	nfc          bool
}

// Source of the names: github.com/ggml-org/llama.cpp, src/llama-vocab.cpp; of
// what they mean, those models' tokenizer.json.
var ggufSplits = map[string]ggufSplit{
	"gpt-2":     {},
	"phi-2":     {},
	"olmo":      {},
	"starcoder": {digits: true},
	"refact":    {digits: true},
	"smollm":    {digits: true},
	"llama-bpe": {pattern: llama3Pattern, ignoreMerges: true},
	"llama3":    {pattern: llama3Pattern, ignoreMerges: true},
	"llama-v3":  {pattern: llama3Pattern, ignoreMerges: true},
	"qwen2":     {pattern: qwen2Pattern, nfc: true},
}

// FromGGUF makes the tokenizer of a GGUF file's metadata: a vocabulary of the
// kind gpt2, which is byte-level BPE, its special tokens and its chat template.
// Files gives it as a Hugging Face folder has it.
func FromGGUF(m gguf.Metadata) (*Tokenizer, error) {
	f, err := ggufFile(m)
	if err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	t, err := build(f)
	if err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	if err := t.ggufRoles(m); err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	eot, err := ggufID(m, "eot", len(t.tokens)) // the end of a turn, where that is not the end of a text
	if err != nil {
		return nil, fmt.Errorf("tokenizer of GGUF file: %w", err)
	}
	t.special.setStop(eot)
	t.files = func() (map[string][]byte, error) { return writeFiles(t, f) }
	return t, nil
}

// ggufFile writes the metadata as the tokenizer.json that it was made of.
func ggufFile(m gguf.Metadata) (*file, error) {
	kind, err := m.Text("tokenizer.ggml.model")
	if err != nil {
		return nil, err
	}
	if kind != "gpt2" {
		return nil, fmt.Errorf("tokenizer.ggml.model %q is not supported: want gpt2 (byte-level BPE)", clip(kind))
	}
	pre, err := m.Text("tokenizer.ggml.pre")
	if err != nil {
		return nil, err
	}
	split, ok := ggufSplits[pre]
	if !ok {
		return nil, fmt.Errorf("tokenizer.ggml.pre %q is not supported", clip(pre))
	}
	tokens, err := m.Texts("tokenizer.ggml.tokens")
	if err != nil {
		return nil, err
	}
	merges, err := m.Texts("tokenizer.ggml.merges")
	if err != nil {
		return nil, err
	}
	kinds, err := m.Ints("tokenizer.ggml.token_type")
	if err != nil && !errors.Is(err, gguf.ErrNoKey) {
		return nil, err
	}
	if kinds != nil && len(kinds) != len(tokens) {
		return nil, fmt.Errorf("tokenizer.ggml.token_type has %d elements and tokenizer.ggml.tokens %d", len(kinds), len(tokens))
	}
	f := &file{
		Version: "1.0", Decoder: byteLevel(split.pattern == ""), PreTokenizer: byteLevel(split.pattern == ""), PostProcessor: byteLevel(false),
		Model: model{
			Type: "BPE", Vocab: make(map[string]int32, len(tokens)), Merges: make([]mergeText, len(merges)), IgnoreMerges: split.ignoreMerges,
		},
	}
	for id, token := range tokens {
		if old, twice := f.Model.Vocab[token]; twice {
			return nil, fmt.Errorf("tokenizer.ggml.tokens: %q is both %d and %d", clip(token), old, id)
		}
		kind := 0
		if kinds != nil {
			kind = kinds[id]
		}
		if kind == ggufControl || kind == ggufUserDefined {
			f.AddedTokens = append(f.AddedTokens, AddedToken{ID: int32(id), Content: token, Special: kind == ggufControl})
		}
		if kind != ggufUnused {
			f.Model.Vocab[token] = int32(id)
		}
	}
	for i, text := range merges {
		if err := f.Model.Merges[i].parse(text); err != nil {
			return nil, fmt.Errorf("tokenizer.ggml.merges[%d]: %w", i, err)
		}
	}
	yes := true
	var before component
	switch {
	case split.digits:
		before = component{Type: "Digits", IndividualDigits: &yes}
	case split.pattern != "":
		no := false
		before = component{Type: "Split", Pattern: &pattern{Regex: &split.pattern}, Behavior: "Isolated", Invert: &no}
	}
	if before.Type != "" {
		f.PreTokenizer = &component{Type: "Sequence", PreTokenizers: []component{before, *f.PreTokenizer}}
	}
	if split.nfc {
		f.Normalizer = &component{Type: "NFC"}
	}
	return f, ggufBegin(m, f, tokens)
}

// ggufBegin adds the post-processor that begins a text with the BOS token, for
// files that want it.
func ggufBegin(m gguf.Metadata, f *file, tokens []string) error {
	add, err := m.Bool("tokenizer.ggml.add_bos_token")
	if err != nil && !errors.Is(err, gguf.ErrNoKey) {
		return err
	}
	if !add {
		return nil
	}
	id, err := ggufID(m, "bos", len(tokens))
	if err != nil {
		return err
	}
	if id == None {
		return errors.New("tokenizer.ggml.add_bos_token without tokenizer.ggml.bos_token_id")
	}
	name := tokens[id]
	f.PostProcessor = &component{
		Type:   "TemplateProcessing",
		Single: []templatePiece{{SpecialToken: &templateRef{ID: name}}, {Sequence: &templateRef{ID: "A"}}},
		Pair: []templatePiece{
			{SpecialToken: &templateRef{ID: name}}, {Sequence: &templateRef{ID: "A"}},
			{SpecialToken: &templateRef{ID: name, TypeID: 1}}, {Sequence: &templateRef{ID: "B", TypeID: 1}},
		},
		SpecialTokens: map[string]templateSpecial{name: {ID: name, IDs: []int32{id}, Tokens: []string{name}}},
	}
	return nil
}

// ggufID is a role's token, None when the file names none.
func ggufID(m gguf.Metadata, role string, vocab int) (int32, error) {
	key := "tokenizer.ggml." + role + "_token_id"
	id, err := m.Int(key)
	if errors.Is(err, gguf.ErrNoKey) {
		return None, nil
	}
	if err != nil {
		return None, err
	}
	if id < 0 || id >= vocab {
		return None, fmt.Errorf("%s is %d, outside the vocabulary of %d", key, id, vocab)
	}
	return int32(id), nil
}

func (t *Tokenizer) ggufRoles(m gguf.Metadata) error {
	for role, id := range map[string]*int32{
		"bos": &t.special.BOS, "eos": &t.special.EOS, "padding": &t.special.Pad, "unknown": &t.special.Unknown,
	} {
		var err error
		if *id, err = ggufID(m, role, len(t.tokens)); err != nil {
			return err
		}
	}
	template, err := m.Text("tokenizer.chat_template")
	if errors.Is(err, gguf.ErrNoKey) {
		return nil
	}
	if err == nil {
		t.setTemplate(defaultTemplate, template)
	}
	return err
}
