package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxFileBytes bounds a tokenizer.json: the largest known are some 35 MB.
const maxFileBytes = 256 << 20

// file is a tokenizer.json, as far as byte-level BPE needs it.
type file struct {
	Version       string       `json:"version"`
	Truncation    any          `json:"truncation"`
	Padding       any          `json:"padding"`
	AddedTokens   []AddedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Decoder       *component   `json:"decoder"`
	Model         model        `json:"model"`
}

type model struct {
	Type                    string           `json:"type"`
	Dropout                 *float64         `json:"dropout"`
	UnkToken                *string          `json:"unk_token"`
	ContinuingSubwordPrefix *string          `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string          `json:"end_of_word_suffix"`
	FuseUnk                 bool             `json:"fuse_unk"`
	ByteFallback            bool             `json:"byte_fallback"`
	IgnoreMerges            bool             `json:"ignore_merges"`
	Vocab                   map[string]int32 `json:"vocab"`
	Merges                  []mergeText      `json:"merges"`
}

// component is a normaliser, pre-tokenizer, post-processor or decoder; which of
// the members it has depends on Type.
type component struct {
	Type string `json:"type"`

	Normalizers   []component `json:"normalizers,omitempty"`
	PreTokenizers []component `json:"pretokenizers,omitempty"`
	Processors    []component `json:"processors,omitempty"`
	Decoders      []component `json:"decoders,omitempty"`

	AddPrefixSpace   *bool    `json:"add_prefix_space,omitempty"`
	TrimOffsets      *bool    `json:"trim_offsets,omitempty"`
	UseRegex         *bool    `json:"use_regex,omitempty"`
	IndividualDigits *bool    `json:"individual_digits,omitempty"`
	Pattern          *pattern `json:"pattern,omitempty"`
	Behavior         string   `json:"behavior,omitempty"`
	Invert           *bool    `json:"invert,omitempty"`

	Single        []templatePiece            `json:"single,omitempty"`
	Pair          []templatePiece            `json:"pair,omitempty"`
	SpecialTokens map[string]templateSpecial `json:"special_tokens,omitempty"`
}

type pattern struct {
	String *string `json:"String,omitempty"`
	Regex  *string `json:"Regex,omitempty"`
}

type templatePiece struct {
	SpecialToken *templateRef `json:"SpecialToken,omitempty"`
	Sequence     *templateRef `json:"Sequence,omitempty"`
}

type templateRef struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

type templateSpecial struct {
	ID     string   `json:"id"`
	IDs    []int32  `json:"ids"`
	Tokens []string `json:"tokens"`
}

// mergeText is a merge: "a b" in older files, ["a", "b"] in newer ones.
type mergeText [2]string

func (m *mergeText) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var list []string
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("merge %s: %w", clip(string(b)), err)
		}
		if len(list) != 2 {
			return fmt.Errorf("merge %s: want two tokens", clip(string(b)))
		}
		*m = mergeText{list[0], list[1]}
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("merge %s: %w", clip(string(b)), err)
	}
	return m.parse(s)
}

func (m *mergeText) parse(s string) error {
	left, right, ok := strings.Cut(s, " ")
	if !ok || left == "" || right == "" || strings.Contains(right, " ") {
		return fmt.Errorf("merge %q: want two tokens and a space between them", clip(s))
	}
	*m = mergeText{left, right}
	return nil
}

// clip keeps an error's quotation short.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	n := 80
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// Parse makes a Tokenizer of the bytes of a tokenizer.json.
func Parse(b []byte) (*Tokenizer, error) {
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("tokenizer.json: %d bytes: want at most %d", len(b), maxFileBytes)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("tokenizer.json: not JSON at byte %d: %w", syntax.Offset, err)
		}
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t, err := build(&f)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t.files = func() (map[string][]byte, error) { return map[string][]byte{"tokenizer.json": b}, nil }
	return t, nil
}

// on is a member that is false when absent; onByDefault one that is true.
func on(b *bool) bool          { return b != nil && *b }
func onByDefault(b *bool) bool { return b == nil || *b }
