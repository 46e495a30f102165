package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/tokenizer/jinja"
)

type chatGolden struct {
	Templates map[string]struct {
		Template string
		Special  map[string]string
		Cases    []struct {
			Name      string
			Messages  json.RawMessage
			Tools     json.RawMessage
			Prompt    bool `json:"add_generation_prompt"`
			Options   json.RawMessage
			Text      *string
			Generated []string
		}
	}
}

func chatGoldens(t *testing.T) (g chatGolden) {
	t.Helper()
	b, err := os.ReadFile("testdata/chat.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// small is a tokenizer of single bytes with the given special tokens.
func small(t *testing.T, special map[string]string, more ...string) *Tokenizer {
	t.Helper()
	f := &file{PreTokenizer: byteLevel(false), Decoder: byteLevel(false), Model: model{Type: "BPE", Vocab: map[string]int32{}}}
	for b, r := range byteRune {
		f.Model.Vocab[string(r)] = int32(b)
	}
	known := map[string]int32{}
	add := func(text string) int32 {
		if id, ok := known[text]; ok {
			return id
		}
		id := int32(256 + len(known))
		known[text] = id
		f.AddedTokens = append(f.AddedTokens, AddedToken{ID: id, Content: text, Special: true})
		return id
	}
	roles := map[string]int32{}
	for role, text := range special {
		roles[role] = add(text)
	}
	for _, text := range more {
		add(text)
	}
	tok, err := build(f)
	if err != nil {
		t.Fatal(err)
	}
	for role, id := range map[string]*int32{"bos_token": &tok.special.BOS, "eos_token": &tok.special.EOS, "pad_token": &tok.special.Pad} {
		if v, ok := roles[role]; ok {
			*id = v
		}
	}
	return tok
}

func value[T any](t *testing.T, b json.RawMessage) T {
	t.Helper()
	v, err := jinja.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	typed, _ := v.(T)
	return typed
}

func dicts(l *jinja.List) (out []*jinja.Dict) {
	for _, v := range l.Items {
		out = append(out, v.(*jinja.Dict))
	}
	return out
}

// The texts, and the parts inside {% generation %}, are what transformers makes
// with jinja2 (tools/golden/chat.py).
func TestTemplatesEqualTransformers(t *testing.T) {
	for name, g := range chatGoldens(t).Templates {
		tok := small(t, g.Special)
		tm, err := tok.ParseTemplate(g.Template, time.Time{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, c := range g.Cases {
			chat := Chat{
				Messages: dicts(value[*jinja.List](t, c.Messages)), Tools: value[*jinja.List](t, c.Tools), Prompt: c.Prompt,
				Variables: value[*jinja.Dict](t, c.Options),
			}
			text, spans, err := tm.render(chat, len(chat.Messages), chat.Prompt)
			switch {
			case c.Text == nil && err == nil:
				t.Errorf("%s %s: got %q, want an error", name, c.Name, text)
			case c.Text != nil && err != nil:
				t.Errorf("%s %s: %v", name, c.Name, err)
			case c.Text != nil && text != *c.Text:
				t.Errorf("%s %s:\n got %q\nwant %q", name, c.Name, text, *c.Text)
			}
			var generated []string
			for _, s := range spans {
				generated = append(generated, text[s.Start:s.End])
			}
			if strings.Join(generated, "|") != strings.Join(c.Generated, "|") {
				t.Errorf("%s %s: generated %q, want %q", name, c.Name, generated, c.Generated)
			}
		}
	}
}

// marked writes a conversation's text with the assistant's turns in ⟦⟧.
func markTurns(t *testing.T, tm *Template, messages ...*jinja.Dict) string {
	t.Helper()
	text, spans, err := tm.Turns(Chat{Messages: messages})
	if err != nil {
		return "error: " + err.Error()
	}
	var b strings.Builder
	at := 0
	for _, s := range spans {
		b.WriteString(text[at:s.Start] + "⟦" + text[s.Start:s.End] + "⟧")
		at = s.End
	}
	return b.String() + text[at:]
}

func TestTurns(t *testing.T) {
	goldens := chatGoldens(t).Templates
	u := func(s string) *jinja.Dict { return Message("user", s) }
	a := func(s string) *jinja.Dict { return Message("assistant", s) }
	for _, c := range []struct {
		name, template string
		messages       []*jinja.Dict
		want           string
	}{
		{"prefixes", goldens["smollm2"].Template, []*jinja.Dict{Message("system", "S"), u("a"), a("b"), u("c"), a("d")},
			"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧" +
				"<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>\n⟧"},
		{"old thoughts are left out", goldens["qwen3"].Template, []*jinja.Dict{u("a"), a("<think>\nx\n</think>\n\nb"), u("c"), a("d")},
			"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧<|im_start|>user\nc<|im_end|>\n" +
				"<|im_start|>assistant\n⟦<think>\n\n</think>\n\nd<|im_end|>\n⟧"},
		{"old thoughts with tools", goldens["qwen3"].Template,
			[]*jinja.Dict{u("a"), a("w").With("reasoning_content", "r"), Message("tool", "t"), a("x"), u("c"), a("d")},
			"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦w<|im_end|>\n⟧<|im_start|>user\n<tool_response>\nt\n</tool_response><|im_end|>\n" +
				"<|im_start|>assistant\n⟦x<|im_end|>\n⟧<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nd<|im_end|>\n⟧"},
		{"always a prompt", goldens["llama3"].Template, []*jinja.Dict{u("a"), a(" b "), u("c"), a("d")},
			"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦b<|eot_id|>⟧" +
				"<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦d<|eot_id|>⟧" +
				"<|start_header_id|>assistant<|end_header_id|>\n\n"},
		{"never a prompt", "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
			[]*jinja.Dict{u("a"), a("b"), u("c"), a("d")}, "[INST] a [/INST]⟦ b</s>⟧[INST] c [/INST]⟦ d</s>⟧"},
		{"a token after the last turn", "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}",
			[]*jinja.Dict{u("a"), a("b"), u("c"), a("d")}, "<user>a<end><assistant>⟦b<end>⟧<user>c<end><assistant>⟦d<end><|end_of_text|>⟧"},
		{"no special tokens", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", []*jinja.Dict{u("a"), a("b")},
			"user: a\n⟦assistant: b\n⟧"},
		{"generation", goldens["chatml_generation"].Template, []*jinja.Dict{u("a"), a("b"), u("c")},
			"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n<|im_start|>user\nc<|im_end|>\n"},
		{"the marker's own text", goldens["smollm2"].Template, []*jinja.Dict{u(marker), a(marker)},
			"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n" + marker +
				"<|im_end|>\n<|im_start|>assistant\n⟦" + marker + "<|im_end|>\n⟧"},
		{"assistant last only", "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}",
			[]*jinja.Dict{u("a"), a("b"), u("c"), a("d")}, "error: messages[1]: " + ErrTurns.Error()},
		{"reversed", "{% for m in messages | reverse %}{{ m.role }}:{{ m.content }};{% endfor %}", []*jinja.Dict{u("a"), a("b")},
			"error: messages[1]: " + ErrTurns.Error()},
		{"no role", "{{ messages }}", []*jinja.Dict{jinja.NewDict("content", "x")}, "error: messages[0] has no role"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := small(t, goldens["llama3"].Special, "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>", "</s>")
			tm, err := tok.ParseTemplate(c.template, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if got := markTurns(t, tm, c.messages...); got != c.want {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestEncodeChatMarksTokens(t *testing.T) {
	tok := small(t, nil, "<|im_start|>", "<|im_end|>")
	tm, err := tok.ParseTemplate(chatGoldens(t).Templates["chatml_generation"].Template, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	ids, marks, err := tm.EncodeChat(Chat{Messages: []*jinja.Dict{Message("user", "é"), Message("assistant", "né\n")}})
	if err != nil {
		t.Fatal(err)
	}
	var said []int32
	for i, id := range ids {
		if marks[i] {
			said = append(said, id)
		}
	}
	if got, want := tok.Decode(said, DecodeOptions{}), "né\n<|im_end|>"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestNoTemplate(t *testing.T) {
	tok := small(t, nil)
	if _, err := tok.Template("", time.Time{}); !errors.Is(err, ErrNoTemplate) {
		t.Fatalf("got %v, want ErrNoTemplate", err)
	}
	tok.setTemplate("tool_use", "x")
	if _, err := tok.Template("", time.Time{}); !errors.Is(err, ErrNoTemplate) || !strings.Contains(err.Error(), "tool_use") {
		t.Fatalf("got %v, want ErrNoTemplate and the name that there is", err)
	}
}

func TestNowIsGiven(t *testing.T) {
	tok := small(t, nil)
	const source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}none{% endif %}"
	for now, want := range map[time.Time]string{{}: "none", time.Date(2024, 7, 6, 0, 0, 0, 0, time.UTC): "06 Jul 2024"} {
		tm, err := tok.ParseTemplate(source, now)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tm.Render(Chat{}); err != nil || got != want {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
	}
}

var today = time.Date(2024, 7, 26, 0, 0, 0, 0, time.UTC)

func dictsOf(question, answer string) []*jinja.Dict {
	return []*jinja.Dict{Message("user", question), Message("assistant", answer)}
}
