package tokenizer

import "encoding/json"

// EndOfText is the one special token of Bytes: it ends a text, fills a sequence
// and has id 256.
const EndOfText = "<|endoftext|>"

// bytesTemplate makes a conversation of the text that a byte model can learn: the
// role, a colon, what is said, and the end of the turn.
const bytesTemplate = `{% for message in messages %}{{ message['role'] + ': ' }}` +
	`{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}` +
	`{% else %}{{ message['content'] }}{% endif %}{{ '\n' }}{% endfor %}` +
	`{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}`

// Bytes is the tokenizer of preset://tiny: 257 ids, a byte's id is its value, 256
// is EndOfText. Its Files load in transformers.
func Bytes() *Tokenizer {
	f := &file{
		Version: "1.0",
		AddedTokens: []AddedToken{
			{ID: 256, Content: EndOfText, Special: true},
		},
		PreTokenizer: byteLevel(false),
		Decoder:      byteLevel(false),
		Model:        model{Type: "BPE", Vocab: map[string]int32{}, Merges: []mergeText{}},
	}
	for b, r := range byteRune {
		f.Model.Vocab[string(r)] = int32(b)
	}
	t, err := build(f)
	if err != nil {
		panic("tokenizer: Bytes: " + err.Error()) // our own constant is wrong
	}
	t.special.EOS, t.special.Pad = 256, 256
	t.special.setStop()
	t.chat = map[string]string{defaultTemplate: bytesTemplate}
	t.files = func() (map[string][]byte, error) { return writeFiles(t, f) }
	return t
}

func byteLevel(regex bool) *component {
	no, yes := false, true
	return &component{Type: "ByteLevel", AddPrefixSpace: &no, TrimOffsets: &yes, UseRegex: &regex}
}

// writeFiles makes the files of a tokenizer that did not come from a tokenizer.json.
func writeFiles(t *Tokenizer, f *file) (map[string][]byte, error) {
	main, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	name := func(id int32) *string {
		if id == None {
			return nil
		}
		return &t.tokens[id]
	}
	config := struct {
		Class    string  `json:"tokenizer_class"`
		BOS      *string `json:"bos_token"`
		EOS      *string `json:"eos_token"`
		Pad      *string `json:"pad_token"`
		Unknown  *string `json:"unk_token"`
		CleanUp  bool    `json:"clean_up_tokenization_spaces"`
		Template string  `json:"chat_template,omitempty"`
	}{
		"PreTrainedTokenizerFast", name(t.special.BOS), name(t.special.EOS), name(t.special.Pad), name(t.special.Unknown),
		false, t.chat[defaultTemplate],
	}
	second, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"tokenizer.json": main, "tokenizer_config.json": append(second, '\n')}, nil
}
