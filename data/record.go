package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/zerofleet/zerofleet/tokenizer"
	"github.com/zerofleet/zerofleet/tokenizer/jinja"
)

// Record is one parsed record; the fields that Format names are set.
type Record struct {
	Format             Format
	Chat               tokenizer.Chat
	Prompt, Completion string
	Text               string
	// LossOn is what the job asked for. The encoder marks what counts by default,
	// and need not find it when everything counts.
	LossOn LossOn
}

// parseLine reads one line of JSONL. Members that the format does not name are
// ignored: data sets carry ids and scores.
func parseLine(line []byte, format Format) (Record, error) {
	if err := validUTF8(line); err != nil {
		return Record{}, err
	}
	if format == Messages {
		return parseMessages(line)
	}
	var fields struct {
		Prompt     *string `json:"prompt"`
		Completion *string `json:"completion"`
		Text       *string `json:"text"`
	}
	if err := json.Unmarshal(line, &fields); err != nil {
		return Record{}, describeJSON(err)
	}
	r := Record{Format: format}
	switch format {
	case Completion:
		if fields.Prompt == nil || fields.Completion == nil {
			return Record{}, errors.New(`want an object with strings "prompt" and "completion"`)
		}
		r.Prompt, r.Completion = *fields.Prompt, *fields.Completion
	case Text:
		if fields.Text == nil {
			return Record{}, errors.New(`want an object with a string "text"`)
		}
		r.Text = *fields.Text
	}
	return r, nil
}

// parseMessages reads a conversation. Its order of members is kept: templates that
// print tools show it to the model.
func parseMessages(line []byte) (Record, error) {
	v, err := jinja.Decode(line)
	if err != nil {
		var whole json.RawMessage // whose error says where, from 1
		if err2 := json.Unmarshal(line, &whole); err2 != nil {
			err = describeJSON(err2)
		}
		return Record{}, err
	}
	object, ok := v.(*jinja.Dict)
	if !ok {
		return Record{}, errors.New("want a JSON object")
	}
	list, ok := field[*jinja.List](object, "messages")
	if !ok || len(list.Items) == 0 {
		return Record{}, errors.New(`want an object with a list "messages" that is not empty`)
	}
	r := Record{Format: Messages}
	for i, m := range list.Items {
		message, ok := m.(*jinja.Dict)
		if !ok {
			return Record{}, fmt.Errorf("messages[%d]: want an object", i)
		}
		if role, _ := field[string](message, "role"); role == "" {
			return Record{}, fmt.Errorf(`messages[%d]: want a string "role"`, i)
		}
		r.Chat.Messages = append(r.Chat.Messages, message)
	}
	if v, given := object.Get("tools"); given && v != nil {
		if r.Chat.Tools, ok = v.(*jinja.List); !ok {
			return Record{}, errors.New(`"tools": want a list`)
		}
	}
	if v, given := object.Get("chat_template_kwargs"); given && v != nil {
		if r.Chat.Variables, ok = v.(*jinja.Dict); !ok {
			return Record{}, errors.New(`"chat_template_kwargs": want an object`)
		}
	}
	return r, nil
}

// field is a member of the wanted type.
func field[T any](d *jinja.Dict, name string) (T, bool) {
	v, _ := d.Get(name)
	typed, ok := v.(T)
	return typed, ok
}

// validUTF8 says where text stops being UTF-8.
func validUTF8(b []byte) error {
	if utf8.Valid(b) {
		return nil
	}
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return fmt.Errorf("byte %d (0x%02x) is not UTF-8", i, b[i])
		}
		i += n
	}
	return nil
}

// describeJSON says where a line stops being JSON, or which member has the wrong type.
func describeJSON(err error) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON at byte %d: %w", syntax.Offset, err)
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("want a JSON object, got %s", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("%q: want a %s, got %s", wrong.Field, wrong.Type, wrong.Value)
	}
	return err
}
