package tokenizer

import (
	"errors"
	"fmt"
	"sort"

	"golang.org/x/text/unicode/norm"
)

// maxHoles is how many ids a vocabulary may leave unused, beside as many as it
// uses: it bounds what a single large id can make us allocate.
const maxHoles = 1 << 16

// build checks a file and makes the tokenizer it describes. Everything that it
// does not know is refused by name.
func build(f *file) (*Tokenizer, error) {
	t := &Tokenizer{
		isAdded: map[int32]bool{}, isSpecial: map[int32]bool{},
		special: Special{BOS: None, EOS: None, Pad: None, Unknown: None},
	}
	for _, step := range []func(*file) error{
		t.buildVocab, t.buildModel, t.buildNormaliser, t.buildSplit, t.buildPost, t.checkDecoder, t.buildAdded,
	} {
		if err := step(f); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Tokenizer) buildVocab(f *file) error {
	if k := f.Model.Type; k != "" && k != "BPE" {
		return fmt.Errorf("model.type %q is not supported: want BPE", clip(k))
	}
	if len(f.Model.Vocab) == 0 {
		return errors.New("model.vocab: empty")
	}
	top := int32(-1)
	check := func(id int32, token string) error {
		if id < 0 || int(id) > 2*(len(f.Model.Vocab)+len(f.AddedTokens))+maxHoles {
			return fmt.Errorf("token %q: id %d: want 0 to about the number of tokens, %d",
				clip(token), id, len(f.Model.Vocab)+len(f.AddedTokens))
		}
		top = max(top, id)
		return nil
	}
	for token, id := range f.Model.Vocab {
		if err := check(id, token); err != nil {
			return err
		}
	}
	for _, a := range f.AddedTokens {
		if err := check(a.ID, a.Content); err != nil {
			return err
		}
	}
	t.vocab = make(map[string]int32, len(f.Model.Vocab)+len(f.AddedTokens))
	t.tokens, t.bytes = make([]string, top+1), make([]string, top+1)
	for token, id := range f.Model.Vocab {
		if t.tokens[id] != "" {
			return fmt.Errorf("tokens %q and %q both have id %d", clip(min(token, t.tokens[id])), clip(max(token, t.tokens[id])), id)
		}
		t.vocab[token], t.tokens[id] = id, token
		if b, ok := unspell(token); ok {
			t.bytes[id] = b
		} else {
			t.bytes[id] = token
		}
	}
	return nil
}

func (t *Tokenizer) buildModel(f *file) error {
	m := f.Model
	switch {
	case m.ByteFallback:
		return errors.New("model.byte_fallback is not supported: want a byte-level vocabulary")
	case m.Dropout != nil && *m.Dropout != 0:
		return fmt.Errorf("model.dropout %v is not supported", *m.Dropout)
	case m.ContinuingSubwordPrefix != nil && *m.ContinuingSubwordPrefix != "":
		return fmt.Errorf("model.continuing_subword_prefix %q is not supported", clip(*m.ContinuingSubwordPrefix))
	case m.EndOfWordSuffix != nil && *m.EndOfWordSuffix != "":
		return fmt.Errorf("model.end_of_word_suffix %q is not supported", clip(*m.EndOfWordSuffix))
	}
	missing := None
	if m.UnkToken != nil {
		id, ok := t.vocab[*m.UnkToken]
		if !ok {
			return fmt.Errorf("model.unk_token %q is not in the vocabulary", clip(*m.UnkToken))
		}
		missing, t.special.Unknown = id, id
	}
	known := 0
	for b := range t.model.byteID {
		id, ok := t.vocab[string(byteRune[b])]
		if !ok {
			if missing != None && m.FuseUnk {
				return fmt.Errorf("model.fuse_unk with a vocabulary that lacks byte 0x%02x is not supported", b)
			}
			t.model.byteID[b] = missing
			continue
		}
		t.model.byteID[b] = id
		known++
	}
	if known == 0 {
		return errors.New("model.vocab has no token for any single byte: want a byte-level vocabulary")
	}
	t.model.merges = make(map[pair]merge, len(m.Merges))
	for rank, text := range m.Merges {
		left, ok := t.vocab[text[0]]
		right, ok2 := t.vocab[text[1]]
		id, ok3 := t.vocab[text[0]+text[1]]
		if !ok || !ok2 || !ok3 {
			return fmt.Errorf("model.merges[%d] %q %q: a part or the whole is not in the vocabulary", rank, clip(text[0]), clip(text[1]))
		}
		t.model.merges[pair{left, right}] = merge{int32(rank), id}
	}
	if m.IgnoreMerges {
		t.model.whole = make(map[string]int32, len(m.Vocab))
		for token, id := range m.Vocab {
			if b, ok := unspell(token); ok {
				t.model.whole[b] = id
			}
		}
	}
	return nil
}

func (t *Tokenizer) buildNormaliser(f *file) error {
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	return flatten(f.Normalizer, "normalizer", func(c component) []component { return c.Normalizers }, func(c component, at string) error {
		form, ok := forms[c.Type]
		if !ok {
			return fmt.Errorf("%s %q is not supported: want NFC, NFD, NFKC or NFKD", at, clip(c.Type))
		}
		t.normalise.forms = append(t.normalise.forms, form)
		return nil
	})
}

// flatten calls use for a component, or for each of a Sequence's in turn.
func flatten(c *component, at string, children func(component) []component, use func(component, string) error) error {
	if c == nil {
		return nil
	}
	if c.Type != "Sequence" {
		return use(*c, at)
	}
	for i, child := range children(*c) {
		if err := flatten(&child, fmt.Sprintf("%s[%d]", at, i), children, use); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokenizer) buildSplit(f *file) error {
	bytes := false
	err := flatten(f.PreTokenizer, "pre_tokenizer", func(c component) []component { return c.PreTokenizers }, func(c component, at string) error {
		if bytes {
			return fmt.Errorf("%s %q after ByteLevel is not supported", at, clip(c.Type))
		}
		switch c.Type {
		case "Digits":
			t.split = append(t.split, digits{single: on(c.IndividualDigits)})
		case "Split":
			s, err := newSplit(c)
			if err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			t.split = append(t.split, s)
		case "ByteLevel":
			bytes = true
			if onByDefault(c.AddPrefixSpace) {
				t.split = append(t.split, prefixSpace{})
			}
			if onByDefault(c.UseRegex) {
				t.split = append(t.split, matchSplitter(matchGPT2))
			}
		default:
			return fmt.Errorf("%s %q is not supported: want Split, Digits or ByteLevel", at, clip(c.Type))
		}
		return nil
	})
	if err == nil && !bytes {
		err = errors.New("pre_tokenizer: no ByteLevel in it: only byte-level BPE is supported")
	}
	return err
}

// newSplit makes a Split pre-tokenizer: by its own matcher when the pattern is known.
func newSplit(c component) (splitter, error) {
	var dropMatches, dropOthers bool
	switch c.Behavior {
	case "Isolated":
	case "Removed":
		dropMatches, dropOthers = !on(c.Invert), on(c.Invert)
	default:
		return nil, fmt.Errorf("split behavior %q is not supported: want Isolated or Removed", clip(c.Behavior))
	}
	if c.Pattern == nil || c.Pattern.Regex == nil {
		return nil, errors.New("split without a Regex pattern is not supported")
	}
	if !dropMatches { // the known patterns match everywhere: there are no others
		switch *c.Pattern.Regex {
		case gpt2Pattern:
			return matchSplitter(matchGPT2), nil
		case llama3Pattern:
			return matchCased(3), nil
		case qwen2Pattern:
			return matchCased(1), nil
		}
	}
	return newRegexSplitter(*c.Pattern.Regex, dropMatches, dropOthers)
}

func (t *Tokenizer) buildPost(f *file) error {
	return flatten(f.PostProcessor, "post_processor", func(c component) []component { return c.Processors }, func(c component, at string) error {
		switch c.Type {
		case "ByteLevel": // changes offsets only
			return nil
		case "TemplateProcessing":
		default:
			return fmt.Errorf("%s %q is not supported: want ByteLevel or TemplateProcessing", at, clip(c.Type))
		}
		var before, after []int32
		seen := false
		for i, p := range c.Single {
			switch {
			case p.Sequence != nil && !seen:
				seen = true
			case p.SpecialToken != nil:
				s, ok := c.SpecialTokens[p.SpecialToken.ID]
				if !ok || len(s.IDs) == 0 {
					return fmt.Errorf("%s.single[%d]: special token %q has no ids", at, i, clip(p.SpecialToken.ID))
				}
				for _, id := range s.IDs {
					if id < 0 || int(id) >= len(t.tokens) {
						return fmt.Errorf("%s: special token %q has id %d, outside the vocabulary of %d", at, clip(s.ID), id, len(t.tokens))
					}
				}
				if seen {
					after = append(after, s.IDs...)
				} else {
					before = append(before, s.IDs...)
				}
			default:
				return fmt.Errorf("%s.single[%d]: want a SpecialToken, or one Sequence", at, i)
			}
		}
		if !seen {
			return fmt.Errorf("%s.single has no Sequence", at)
		}
		t.before, t.after = append(before, t.before...), append(t.after, after...)
		return nil
	})
}

func (t *Tokenizer) checkDecoder(f *file) error {
	if f.Decoder == nil {
		return errors.New("decoder: none: want ByteLevel")
	}
	return flatten(f.Decoder, "decoder", func(c component) []component { return c.Decoders }, func(c component, at string) error {
		if c.Type != "ByteLevel" {
			return fmt.Errorf("%s %q is not supported: want ByteLevel", at, clip(c.Type))
		}
		return nil
	})
}

func (t *Tokenizer) buildAdded(f *file) error {
	for _, a := range f.AddedTokens {
		if old, ok := t.vocab[a.Content]; ok && old != a.ID {
			return fmt.Errorf("added token %q: ids %d and %d", clip(a.Content), old, a.ID)
		}
		if old := t.tokens[a.ID]; old != "" && old != a.Content {
			return fmt.Errorf("added token %q has the id %d of %q", clip(a.Content), a.ID, clip(old))
		}
		t.vocab[a.Content], t.tokens[a.ID], t.bytes[a.ID] = a.ID, a.Content, a.Content
		t.isAdded[a.ID] = true
		if a.Special {
			t.isSpecial[a.ID] = true
		}
		set, content := &t.raw, a.Content
		if a.Normalized {
			set = &t.norm
			content, _ = t.normalise.apply(content, false)
		}
		if err := set.add(a, content); err != nil {
			return err
		}
	}
	return nil
}

// setStop fills Special.Stop.
func (s *Special) setStop(more ...int32) {
	set := map[int32]bool{}
	s.Stop = nil
	for _, id := range append([]int32{s.EOS}, more...) {
		if id != None && !set[id] {
			set[id] = true
			s.Stop = append(s.Stop, id)
		}
	}
	sort.Slice(s.Stop, func(i, j int) bool { return s.Stop[i] < s.Stop[j] })
}
