package data

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/tokenizer"
)

func bytesTokenizer(t testing.TB, template string) Encoder {
	t.Helper()
	tok := tokenizer.Bytes()
	tm, err := tok.Template("", Today)
	if template != "" {
		tm, err = tok.ParseTemplate(template, Today)
	}
	if err != nil {
		t.Fatal(err)
	}
	return NewEncoder(tok, tm)
}

// shown opens the records and prints them, one a line, with what counts in ⟦⟧.
func shown(t *testing.T, format Format, on LossOn, enc Encoder, records string) string {
	t.Helper()
	o := Options{
		Sources: []Source{{Path: write(t, t.TempDir(), "a.jsonl", records), Format: format}}, SequenceLen: 256, LossOn: on,
		GlobalBatch: 1, MicroBatch: 1, Epochs: 1,
	}
	d, err := Open(context.Background(), o, enc)
	if err != nil {
		return "error: " + err.Error()[strings.LastIndex(err.Error(), "a.jsonl"):]
	}
	var b strings.Builder
	for i := range d.store.records() {
		b.WriteString(d.paint(d.store.document(i), markOn, markOff) + "\n")
	}
	return b.String()
}

func TestWhatCounts(t *testing.T) {
	const chat = `{"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "yo"}], "id": 3}`
	for _, c := range []struct {
		name     string
		format   Format
		on       LossOn
		template string
		records  string
		want     string
	}{
		{"messages", Messages, "", "", chat, "user: hé\nassistant: ⟦yo<|endoftext|>⟧\n\n"},
		{"messages, all", Messages, OnAll, "", chat, "u⟦ser: hé\nassistant: yo<|endoftext|>\n⟧\n"},
		{"all needs no turns", Messages, OnAll, "{{ messages | length }}{{ messages[-1].content }}", chat, "2⟦yo⟧\n"},
		{"unclear turns", Messages, "", "{{ messages | length }}{{ messages[-1].content }}", chat,
			"error: a.jsonl:1: messages[1]: " + tokenizer.ErrTurns.Error()},
		{"refused by the template", Messages, "", "{{ raise_exception('no ' + messages[0].role) }}", chat,
			"error: a.jsonl:1: chat template line 1: the template refuses this conversation: no user"},
		{"variables and tools", Messages, "", "{{ tools | tojson }}{{ mood }}{% generation %}x{% endgeneration %}",
			`{"messages": [{"role": "user"}], "tools": [{"z": 1, "a": 2}], "chat_template_kwargs": {"mood": "fine"}}`,
			"[{\"z\": 1, \"a\": 2}]fine⟦x⟧\n"},
		{"completion", Completion, "", "", `{"prompt": "ab", "completion": "cd"}`, "ab⟦cd<|endoftext|>⟧\n"},
		{"completion that ends itself", Completion, "", "", `{"prompt": "ab", "completion": "cd<|endoftext|>"}`, "ab⟦cd<|endoftext|>⟧\n"},
		{"empty completion", Completion, "", "", `{"prompt": "ab", "completion": ""}`, "ab⟦<|endoftext|>⟧\n"},
		{"completion, all", Completion, OnAll, "", `{"prompt": "ab", "completion": "cd"}`, "a⟦bcd<|endoftext|>⟧\n"},
		{"text", Text, "", "", `{"text": "ab\u0007"}`, "a⟦b\\u0007<|endoftext|>⟧\n"},
		{"no user only", Messages, "", "", `{"messages": [{"role": "user", "content": "x"}]}`,
			"error: a.jsonl: no training data: no token counts in any of 1 records: the chat template or loss_on marks nothing"},
		{"messages missing", Messages, "", "", `{"text": "x"}`, `error: a.jsonl:1: want an object with a list "messages" that is not empty`},
		{"messages empty", Messages, "", "", `{"messages": []}`, `error: a.jsonl:1: want an object with a list "messages" that is not empty`},
		{"role missing", Messages, "", "", `{"messages": [{"content": "x"}]}`, `error: a.jsonl:1: messages[0]: want a string "role"`},
		{"message a string", Messages, "", "", `{"messages": ["x"]}`, `error: a.jsonl:1: messages[0]: want an object`},
		{"tools a string", Messages, "", "", `{"messages": [{"role": "user"}], "tools": "x"}`, `error: a.jsonl:1: "tools": want a list`},
		{"not an object", Messages, "", "", `[]`, `error: a.jsonl:1: want a JSON object`},
		{"not JSON", Messages, "", "", `{"messages": }`, `error: a.jsonl:1: not JSON at byte 14: invalid character '}' looking for beginning of value`},
		{"cut off", Messages, "", "", `{"messages": [`, `error: a.jsonl:1: not JSON at byte 14: unexpected end of JSON input`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := shown(t, c.format, c.on, bytesTokenizer(t, c.template), c.records); got != c.want {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestTemplateIsTheModels(t *testing.T) {
	const chat = `{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}`
	if got, want := shown(t, Messages, "", NewEncoder(tokenizer.Bytes(), nil), chat), "user: x\nassistant: ⟦y<|endoftext|>⟧\n\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	files, err := tokenizer.Bytes().Files()
	if err != nil {
		t.Fatal(err)
	}
	bare, err := tokenizer.Parse(files["tokenizer.json"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewEncoder(bare, nil).Encode(Record{Format: Messages}); !errors.Is(err, tokenizer.ErrNoTemplate) {
		t.Fatalf("got %v, want ErrNoTemplate", err)
	}
}

// A template that asks for the date gets one that does not change.
func TestDateIsConstant(t *testing.T) {
	got := shown(t, Messages, "", bytesTokenizer(t, "{{ strftime_now('%Y-%m-%d') }}{% generation %}x{% endgeneration %}"),
		`{"messages": [{"role": "user"}]}`)
	if want := "2024-07-26⟦x⟧\n"; got != want || time.Now().Year() == 2024 {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestShow(t *testing.T) {
	path := write(t, t.TempDir(), "a.jsonl", `{"prompt": "q\u001b[31m", "completion": "a"}`+"\n"+`{"prompt": "long enough to be cut", "completion": "b"}`+
		"\n"+`{"prompt": "", "completion": "cc"}`)
	o := Options{
		Sources: []Source{{Path: path, Format: Completion}}, SequenceLen: 12, Packing: true, GlobalBatch: 2, MicroBatch: 1, Steps: 5,
	}
	d, err := Open(context.Background(), o, NewEncoder(tokenizer.Bytes(), nil))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Show(&b, d, 1, false); err != nil {
		t.Fatal(err)
	}
	want := path + ": 2 of 3 records, 11 tokens (4 count), 1 truncated (longest 23 tokens), 1 left out: no token counts\n" +
		"an epoch: 2 records in 1 sequences of 12 tokens, 91.7 % full; the job: 5 steps of 2 sequences\n" +
		"\n--- record 1: 8 tokens, 2 count\nq\\u001b[31m⟦a<|endoftext|>⟧\n"
	if b.String() != want {
		t.Fatalf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Show(&b, d, 10, true); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, colourOn+"a<|endoftext|>"+colourOff) || strings.Contains(got, "\x1b[31m") || strings.Count(got, "---") != 2 {
		t.Fatalf("got %q", got)
	}
}
