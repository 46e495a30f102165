// Package tokenizer turns text into token ids and back: byte-level BPE as
// Hugging Face's tokenizer.json, or a GGUF file's vocabulary, describes it, id
// for id what the tokenizers library gives.
//
// Call Load for a model's folder, Parse for a tokenizer.json alone, FromGGUF for
// a GGUF file, or Bytes for the tokenizer of preset://tiny. Then Encode and
// Decode; Stream decodes token by token. Template renders conversations.
//
//	text -> added tokens cut out -> normalised -> pieces -> merged -> ids      Encode
//	ids  -> tokens -> bytes -> UTF-8                                           Decode
//
// What a file asks for and this package does not do is refused by name when the
// tokenizer is made, never ignored.
package tokenizer

import (
	"fmt"
	"sync"
)

// None is the id of a special token that a tokenizer does not have.
const None int32 = -1

// Special names the ids with a role. A role that nothing fills is None.
type Special struct {
	BOS, EOS, Pad, Unknown int32
	// Stop are the ids at which a generated text ends: EOS, and what the model's
	// generation_config.json adds. Sorted, without None.
	Stop []int32
}

// maxScratch is how many elements of working memory are kept for the next text.
const maxScratch = 1 << 20

// Tokenizer never changes once made; several goroutines may use it.
type Tokenizer struct {
	vocab  map[string]int32 // token as the vocabulary spells it, added tokens included
	tokens []string         // the same by id; "" where there is none
	bytes  []string         // what a token decodes to, by id

	model     bpe
	raw, norm addedSet // added tokens that are looked for before and after normalising
	isAdded   map[int32]bool
	isSpecial map[int32]bool
	normalise normaliser
	split     []splitter
	// before and after are what the post-processor puts around a text.
	before, after []int32

	special Special
	chat    map[string]string // chat templates by name; "default"
	files   func() (map[string][]byte, error)
	scratch sync.Pool // *encoding
}

// EncodeOptions choose how a text is encoded.
type EncodeOptions struct {
	// Begin and End put before and after the text what the post-processor says,
	// such as the token that begins a text. A rendered chat has them already.
	Begin, End bool
}

// Encode returns the ids of text. Added tokens spelt out in the text, special
// ones too, become their ids, as in the tokenizers library. The text need not be
// UTF-8: other bytes are encoded as they are.
//
// The only error is that of a split pattern which does not come to an end on
// this text.
func (t *Tokenizer) Encode(text string, o EncodeOptions) ([]int32, error) {
	ids, _, err := t.encode(text, o, false)
	return ids, err
}

// EncodeOffsets also returns, for each id, the byte of text at which its token
// starts. What the post-processor adds starts at 0 or at len(text). Where text
// was changed by normalisation an offset is that of the character sequence that
// was normalised together.
func (t *Tokenizer) EncodeOffsets(text string, o EncodeOptions) (ids []int32, starts []int, err error) {
	return t.encode(text, o, true)
}

func (t *Tokenizer) encode(text string, o EncodeOptions, offsets bool) ([]int32, []int, error) {
	e, _ := t.scratch.Get().(*encoding)
	if e == nil {
		e = new(encoding)
	}
	defer func() {
		if cap(e.symbols)+cap(e.ids)+cap(e.pieces) < maxScratch {
			t.scratch.Put(e)
		}
	}()
	e.t, e.offsets = t, offsets
	e.ids, e.starts = e.ids[:0], e.starts[:0]
	if o.Begin {
		for _, id := range t.before {
			e.emit(id, 0)
		}
	}
	if err := e.text(text); err != nil {
		return nil, nil, err
	}
	if o.End {
		for _, id := range t.after {
			e.emit(id, len(text))
		}
	}
	ids := append(make([]int32, 0, len(e.ids)), e.ids...)
	if !offsets {
		return ids, nil, nil
	}
	return ids, append(make([]int, 0, len(e.starts)), e.starts...), nil
}

// VocabSize is one more than the highest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// CheckVocab refuses a model whose embedding has fewer rows than this tokenizer
// has ids. More rows are common: they are padding.
func (t *Tokenizer) CheckVocab(modelVocab int) error {
	if n := t.VocabSize(); n > modelVocab {
		return fmt.Errorf("tokenizer has %d ids and the model's vocabulary is %d: they do not belong together", n, modelVocab)
	}
	return nil
}

// Special gives the ids with a role.
func (t *Tokenizer) Special() Special {
	s := t.special
	s.Stop = append([]int32(nil), s.Stop...)
	return s
}

// ID is the id of a token as the vocabulary spells it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.vocab[token]
	return id, ok
}

// Token is how the vocabulary spells an id; "" when it has no such id.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// IsSpecial tells whether an id is a special token, which DecodeOptions.SkipSpecial leaves out.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.isSpecial[id] }
