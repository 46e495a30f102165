package jinja

import (
	"fmt"
	"strings"
)

type testFunc func(s *state, v any, a args) (bool, error)

// tests are what may stand after `is`.
var tests map[string]testFunc

func init() {
	tests = map[string]testFunc{
		"defined":     func(_ *state, v any, _ args) (bool, error) { _, no := v.(undefined); return !no, nil },
		"undefined":   func(_ *state, v any, _ args) (bool, error) { _, yes := v.(undefined); return yes, nil },
		"none":        func(_ *state, v any, _ args) (bool, error) { return v == nil, nil },
		"boolean":     func(_ *state, v any, _ args) (bool, error) { _, ok := v.(bool); return ok, nil },
		"true":        func(_ *state, v any, _ args) (bool, error) { return v == true, nil },
		"false":       func(_ *state, v any, _ args) (bool, error) { return v == false, nil },
		"integer":     func(_ *state, v any, _ args) (bool, error) { _, ok := v.(int64); return ok, nil },
		"float":       func(_ *state, v any, _ args) (bool, error) { _, ok := v.(float64); return ok, nil },
		"number":      func(_ *state, v any, _ args) (bool, error) { _, ok := float(v); return ok, nil },
		"string":      func(_ *state, v any, _ args) (bool, error) { _, ok := v.(string); return ok, nil },
		"mapping":     func(_ *state, v any, _ args) (bool, error) { _, ok := v.(*Dict); return ok, nil },
		"sequence":    isSequence,
		"iterable":    isSequence,
		"callable":    func(_ *state, v any, _ args) (bool, error) { _, ok := v.(*function); return ok, nil },
		"escaped":     func(_ *state, v any, _ args) (bool, error) { return false, nil },
		"odd":         func(_ *state, v any, _ args) (bool, error) { return divides(v, 2, 1) },
		"even":        func(_ *state, v any, _ args) (bool, error) { return divides(v, 2, 0) },
		"divisibleby": divisibleBy,
		"sameas":      sameAs,
		"upper":       caseTest("isupper"),
		"lower":       caseTest("islower"),
		"in":          func(s *state, v any, a args) (bool, error) { return s.contains(a.get(0, "seq", nil), v) },
		"filter":      func(_ *state, v any, _ args) (bool, error) { t, _ := v.(string); _, ok := filters[t]; return ok, nil },
		"test":        func(_ *state, v any, _ args) (bool, error) { t, _ := v.(string); _, ok := tests[t]; return ok, nil },
	}
	for op, names := range map[string]string{
		"==": "== eq equalto", "!=": "!= ne", "<": "< lt lessthan", "<=": "<= le", ">": "> gt greaterthan", ">=": ">= ge",
	} {
		for _, name := range strings.Fields(names) {
			tests[name] = func(s *state, v any, a args) (bool, error) { return s.compare(op, v, a.get(0, "other", nil)) }
		}
	}
}

func isSequence(_ *state, v any, _ args) (bool, error) {
	switch v.(type) {
	case string, *List, *Dict, undefined:
		return true, nil
	}
	return false, nil
}

func divides(v any, by, rest int64) (bool, error) {
	n, ok := integer(v)
	if !ok {
		return false, fmt.Errorf("want an int, got a %s", kind(v))
	}
	m, err := intMath("%", n, by)
	return m == rest, err
}

func divisibleBy(_ *state, v any, a args) (bool, error) {
	by, err := a.count(0, "num", 0)
	if err != nil {
		return false, err
	}
	return divides(v, by, 0)
}

// sameAs is Python's `is`, as far as it can matter: none, true, false, and the
// very same list or dictionary.
func sameAs(_ *state, v any, a args) (bool, error) {
	o := a.get(0, "other", nil)
	if _, ok := v.(undefined); ok {
		return false, nil
	}
	return v == o, nil
}

func caseTest(name string) testFunc {
	return func(s *state, v any, a args) (bool, error) {
		t, err := s.str(v)
		if err != nil {
			return false, err
		}
		ok, err := stringMethods[name](s, t, a)
		return ok == true, err
	}
}
