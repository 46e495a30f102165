package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
)

// A text's tokens come back with a row of logits each, and so does the chat's; the last row does not depend on what
// other texts are asked for.
func TestAnswers(t *testing.T) {
	ask := func(request string) []answer {
		var out bytes.Buffer
		if err := run(t.Context(), options{model: "preset://tiny", act: kernels.F32, threads: 1}, strings.NewReader(request), &out); err != nil {
			t.Fatal(err)
		}
		var answers []answer
		if err := json.Unmarshal(out.Bytes(), &answers); err != nil {
			t.Fatal(err)
		}
		return answers
	}
	const vocab = 257
	both := ask(`{"texts": ["ab", "é!"], "question": "c?"}`)
	if len(both) != 3 {
		t.Fatalf("%d answers, want 3", len(both))
	}
	if want := []int32{0xc3, 0xa9, '!'}; !slices.Equal(both[1].Tokens, want) || both[1].Decoded != "é!" {
		t.Errorf("tokens %v, decoded %q, want %v", both[1].Tokens, both[1].Decoded, want)
	}
	if want := "user: c?\nassistant: "; both[2].Text != want {
		t.Errorf("chat %q, want %q", both[2].Text, want)
	}
	for _, a := range both {
		if got, want := len(a.Logits), 4*vocab*len(a.Tokens); got != want {
			t.Errorf("%q: %d bytes of logits, want %d", a.Text, got, want)
		}
	}
	if alone := ask(`{"texts": ["é!"]}`); len(alone) != 1 || !bytes.Equal(alone[0].Logits, both[1].Logits) {
		t.Error("a text's logits depend on the texts before it")
	}
}

func TestBadRequests(t *testing.T) {
	for _, c := range []struct{ request, want string }{
		{`{"texts": [""]}`, `text "" has no tokens`},
		{`{`, "read the request: unexpected EOF"},
	} {
		err := run(t.Context(), options{model: "preset://tiny", act: kernels.F32, threads: 1}, strings.NewReader(c.request), &bytes.Buffer{})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.request, err, c.want)
		}
	}
}
