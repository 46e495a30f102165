package jinja

import (
	"encoding/json"
	"os"
	"testing"
)

// Every template renders what jinja2 renders, or fails where it fails
// (tools/golden/chat.py).
func TestEqualsJinja2(t *testing.T) {
	b, err := os.ReadFile("testdata/jinja.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Vars  json.RawMessage
		Cases []struct {
			Template string
			Text     *string
			Error    string
		}
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	vars, err := Decode(g.Vars)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range g.Cases {
		got, err := render(c.Template, vars.(*Dict))
		switch {
		case c.Text == nil && err == nil:
			t.Errorf("%s\n got %q\nwant an error, as %s", c.Template, got, c.Error)
		case c.Text != nil && err != nil:
			t.Errorf("%s\n got error %v\nwant %q", c.Template, err, *c.Text)
		case c.Text != nil && got != *c.Text:
			t.Errorf("%s\n got %q\nwant %q", c.Template, got, *c.Text)
		}
	}
	t.Logf("%d templates", len(g.Cases))
}

func render(template string, vars *Dict) (string, error) {
	p, err := Parse(template)
	if err != nil {
		return "", err
	}
	text, _, err := p.Render(vars, Options{})
	return text, err
}
