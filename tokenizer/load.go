package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// defaultTemplate is the name of a chat template that has none.
const defaultTemplate = "default"

// maxConfigBytes bounds the smaller files beside a tokenizer.json.
const maxConfigBytes = 16 << 20

// configFiles are what Load reads beside tokenizer.json, each if it is there,
// and what Files gives back.
var configFiles = []string{"tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"}

// Load reads the tokenizer of a Hugging Face model folder: tokenizer.json, and
// from the files beside it the special tokens' roles, the ids that end a text
// and the chat template.
func Load(folder string) (*Tokenizer, error) {
	main, err := readBounded(filepath.Join(folder, "tokenizer.json"), maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	files := map[string][]byte{"tokenizer.json": main}
	for _, name := range configFiles {
		b, err := readBounded(filepath.Join(folder, name), maxConfigBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load tokenizer: %w", err)
		}
		files[name] = b
	}
	t, err := ParseFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %s: %w", folder, err)
	}
	return t, nil
}

// ParseFiles makes a Tokenizer of a folder's files by name: what Files gives.
func ParseFiles(files map[string][]byte) (*Tokenizer, error) {
	t, err := Parse(files["tokenizer.json"])
	if err != nil {
		return nil, err
	}
	if err := t.configure(files); err != nil {
		return nil, err
	}
	t.files = func() (map[string][]byte, error) { return files, nil }
	return t, nil
}

// Files are the tokenizer as a Hugging Face folder has it: file names to
// contents, tokenizer.json among them, the model's generation_config.json not.
func (t *Tokenizer) Files() (map[string][]byte, error) {
	all, err := t.files()
	if err != nil {
		return nil, fmt.Errorf("write tokenizer: %w", err)
	}
	out := make(map[string][]byte, len(all))
	for name, b := range all {
		if name != "generation_config.json" {
			out[name] = b
		}
	}
	return out, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, nil
}

// tokenName is a token's text: a string, or an object with its content.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var object struct {
		Content string `json:"content"`
	}
	if len(b) > 0 && b[0] == '{' {
		err := json.Unmarshal(b, &object)
		*n = tokenName(object.Content)
		return err
	}
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s != nil {
		*n = tokenName(*s)
	}
	return nil
}

// idList is an id or a list of them.
type idList []int32

func (l *idList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]int32)(l))
	}
	var id *int32
	if err := json.Unmarshal(b, &id); err != nil {
		return err
	}
	if id != nil {
		*l = idList{*id}
	}
	return nil
}

// configure reads the files beside tokenizer.json; tokenizer_config.json wins
// over special_tokens_map.json, and chat_template.jinja over both.
func (t *Tokenizer) configure(files map[string][]byte) error {
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		b, ok := files[name]
		if !ok {
			continue
		}
		var c struct {
			BOS      tokenName       `json:"bos_token"`
			EOS      tokenName       `json:"eos_token"`
			Pad      tokenName       `json:"pad_token"`
			Unknown  tokenName       `json:"unk_token"`
			Template json.RawMessage `json:"chat_template"`
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, role := range []struct {
			name string
			text tokenName
			id   *int32
		}{
			{"bos_token", c.BOS, &t.special.BOS}, {"eos_token", c.EOS, &t.special.EOS},
			{"pad_token", c.Pad, &t.special.Pad}, {"unk_token", c.Unknown, &t.special.Unknown},
		} {
			if role.text == "" {
				continue
			}
			id, ok := t.vocab[string(role.text)]
			if !ok {
				return fmt.Errorf("%s: %s %q is not in the vocabulary", name, role.name, clip(string(role.text)))
			}
			*role.id = id
		}
		if err := t.templates(c.Template); err != nil {
			return fmt.Errorf("%s: chat_template: %w", name, err)
		}
	}
	if b, ok := files["chat_template.jinja"]; ok {
		t.setTemplate(defaultTemplate, string(b))
	}
	var stop idList
	if b, ok := files["generation_config.json"]; ok {
		var c struct {
			EOS idList `json:"eos_token_id"`
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return fmt.Errorf("generation_config.json: %w", err)
		}
		for _, id := range c.EOS {
			if id < 0 || int(id) >= len(t.tokens) {
				return fmt.Errorf("generation_config.json: eos_token_id %d is outside the tokenizer's %d ids", id, len(t.tokens))
			}
		}
		stop = c.EOS
		if t.special.EOS == None && len(stop) > 0 {
			t.special.EOS = stop[0]
		}
	}
	t.special.setStop(stop...)
	return nil
}

// templates reads a template, or a list of named ones.
func (t *Tokenizer) templates(b json.RawMessage) error {
	switch {
	case len(b) == 0 || string(b) == "null":
		return nil
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		t.setTemplate(defaultTemplate, s)
		return nil
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for _, l := range list {
		t.setTemplate(l.Name, l.Template)
	}
	return nil
}

func (t *Tokenizer) setTemplate(name, text string) {
	if t.chat == nil {
		t.chat = map[string]string{}
	}
	t.chat[name] = text
}

// ChatTemplate is the model's chat template, "" when it has none. Of several it
// is the one named default.
func (t *Tokenizer) ChatTemplate() string { return t.chat[defaultTemplate] }

// ChatTemplates are the names of the templates that the model has, sorted.
func (t *Tokenizer) ChatTemplates() []string {
	names := make([]string, 0, len(t.chat))
	for name := range t.chat {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
