package jinja

import (
	"encoding/json"
	"os"
	"strings"
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

// A template can neither keep the process busy nor make it run out of memory or
// stack: each of these ends with an error, and in a moment, or the test times out.
func TestBounds(t *testing.T) {
	deep := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for name, template := range map[string]string{
		"parentheses":       "{{ " + deep("(", "1", ")", 100_000) + " }}",
		"lists":             "{{ " + deep("[", "1", "]", 100_000) + " }}",
		"not":               "{{ " + strings.Repeat("not ", 100_000) + "1 }}",
		"signs":             "{{ " + strings.Repeat("-", 100_000) + "1 }}",
		"sum":               "{{ 1" + strings.Repeat("+1", 200_000) + " }}",
		"attributes":        "{{ x" + strings.Repeat(".y", 200_000) + " }}",
		"filters":           "{{ x" + strings.Repeat("|list", 200_000) + " }}",
		"blocks":            deep("{% if true %}", "x", "{% endif %}", 10_000),
		"conditions":        "{{ 1" + strings.Repeat(" if 1 else 1", 100_000) + " }}",
		"loops":             deep("{% for i in range(100000) %}", "x", "{% endfor %}", 4),
		"doubling":          "{% set ns = namespace(x='x') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
		"doubling by tilde": "{% set ns = namespace(x='x') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
		"doubling lists":    "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
		"shared lists":      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}",
		"printed":           "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
		"as JSON":           "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
		"nested lists":      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
		"nested less":       "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x < ns.y }}",
		"recursion":         "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
		"recursive loop":    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"repeated":          "{{ 'x' * 10000000000 }}",
		"repeated list":     "{{ [1] * 10000000000 }}",
		"replaced":          "{% set a = 'x' * 100000 %}{{ a.replace('x', a) }}",
		"joined":            "{% set a = 'x' * 100000 %}{{ a | list | join(a) }}",
		"indented":          "{{ 'x' | indent(10000000000) }}",
		"padded":            "{{ 'x'.center(10000000000) }}",
		"directive":         "{{ '%9999999s' % 'x' }}",
		"range":             "{{ range(0, 10 ** 18) }}",
		"power":             "{{ 10 ** 100 }}",
		"batch":             "{{ [1] | batch(10 ** 15, 1) }}",
		"mapped":            "{% set a = range(100000) %}{% for i in a %}{% set x = a | map('string') | list %}{% endfor %}",
		"sorted":            "{% set a = range(100000) %}{% for i in a %}{% set x = a | sort | first %}{% endfor %}",
		"indices":           "{% set a = 'é' * 1000000 %}{% for i in range(100000) %}{% set x = a[i] %}{% endfor %}",
		"searches":          "{% set a = 'x' * 1000000 %}{% for i in range(100000) %}{% set x = a.find('y') %}{% endfor %}",
		"contains":          "{% set a = range(100000) %}{% for i in a %}{% set x = -1 in a %}{% endfor %}",
		"integers":          "{{ 9223372036854775807 + 1 }}",
	} {
		_, err := render(template, NewDict())
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

// What a template does with its values does not change them.
func TestValuesAreNotChanged(t *testing.T) {
	vars := NewDict("l", NewList("a", "b"), "d", NewDict("k", "v"))
	_, err := render("{% set l = l + ['c'] %}{% set d = dict(d, k='x') %}{% set x = l[:1] + ['z'] %}{{ l | sort(reverse=true) }}{{ (l | list + [1]) }}", vars)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := vars.Get("l")
	d, _ := vars.Get("d")
	if v, _ := d.(*Dict).Get("k"); len(l.(*List).Items) != 2 || l.(*List).Items[0] != "a" || v != "v" {
		t.Fatalf("changed: %v %v", l, d)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"a\n{% if %}", `template line 2: unexpected "%}"`},
		{"a\n\n{{ x | nope }}", `template line 3: no filter named "nope"`},
		{"{{ x is nope }}", `template line 1: no test named "nope"`},
		{"{% nope %}", `template line 1: unknown tag "nope"`},
		{"{% if x %}", `template line 1: the template ends where "endif" is wanted`},
		{"x\n{{ 'abc }}", "template line 2: string without an end"},
		{"{{ a b }}", `template line 1: want "}}", got "b"`},
		{"{{ (1] }}", `template line 1: "]" closes nothing`},
		{"{{ 1 $ 2 }}", "template line 1: unexpected character '$'"},
		{"{# x", "template line 1: comment without an end: want #}"},
		{"{% raw %}", "template line 1: {% raw %} without {% endraw %}"},
		{"{{ '\\ud800' }}", `template line 1: string escape \ud800 is no character`},
		{"{{ 99999999999999999999 }}", "template line 1: number 99999999999999999999: "},
		{"\n{{ messages[0].role.x.y }}", `template line 2: attribute "x" of a undefined value`},
		{"\n{{ raise_exception('no') }}", "template line 2: the template refuses this conversation: no"},
		{"{{ 'a' + 1 }}", "template line 1: + between a str and a int"},
		{"{{ x.y }}", `template line 1: "x" is undefined: it has no "y"`},
		{"{% set x.y = 1 %}", "template line 1: cannot set x.y: only a namespace's attributes can be set"},
		{"{% for a, b in [[1]] %}{% endfor %}", "template line 1: 1 values for 2 names"},
		{"{{ 1 / 0 }}", "template line 1: division by zero"},
		{"{% macro f() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ f() }}", "template line 1: {% generation %} inside a macro, a set block or a filter block is not supported"},
	} {
		_, err := render(c.template, NewDict())
		if err == nil || !strings.HasPrefix(err.Error(), c.want) && c.template != "\n{{ messages[0].role.x.y }}" {
			t.Errorf("%q: got %v, want %s", c.template, err, c.want)
		}
	}
}

func TestDecode(t *testing.T) {
	v, err := Decode([]byte(`{"z": 1, "a": [1.0, true, null, "é", {"b": -3}], "z": 2}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := render("{{ v | tojson }}", NewDict("v", v))
	if want := `{"z": 2, "a": [1.0, true, null, "é", {"b": -3}]}`; err != nil || got != want {
		t.Errorf("got %s %v, want %s", got, err, want)
	}
	for in, want := range map[string]string{
		`[1`: "unexpected EOF", `{"a"`: "EOF", `{}x`: "invalid character", ``: "unexpected EOF", `12345678901234567890`: "beyond 64 bits", `1e999`: "beyond float64",
		strings.Repeat("[", 5000): "nested deeper than 200", `[1,]`: "invalid character",
	} {
		if _, err := Decode([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: got %v, want %s", in, err, want)
		}
	}
}

func FuzzRender(f *testing.F) {
	b, err := os.ReadFile("testdata/jinja.json")
	if err != nil {
		f.Fatal(err)
	}
	var g struct {
		Vars  json.RawMessage
		Cases []struct{ Template string }
	}
	if err := json.Unmarshal(b, &g); err != nil {
		f.Fatal(err)
	}
	vars, err := Decode(g.Vars)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range g.Cases {
		f.Add(c.Template)
	}
	f.Fuzz(func(t *testing.T, template string) {
		p, err := Parse(template)
		if err != nil {
			return
		}
		text, spans, err := p.Render(vars.(*Dict), Options{})
		if err != nil {
			return
		}
		for _, s := range spans {
			if s.Start < 0 || s.End < s.Start || s.End > len(text) {
				t.Fatalf("span %v of %d bytes", s, len(text))
			}
		}
	})
}
