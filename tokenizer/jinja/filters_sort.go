package jinja

import (
	"fmt"
	"sort"
)

// sortValues sorts in place, keeping the order of equals.
func sortValues(v []any, less func(a, b any) (bool, error)) error {
	var failed error
	sort.SliceStable(v, func(i, j int) bool {
		ok, err := less(v[i], v[j])
		if failed == nil {
			failed = err
		}
		return ok
	})
	return failed
}

func (s *state) sortBy(l []any, key func(*state, any) (any, error), backwards bool) (any, error) {
	pairs := make([]any, len(l))
	for i, x := range l {
		k, err := key(s, x)
		if err != nil {
			return nil, err
		}
		pairs[i] = [2]any{k, x}
	}
	err := sortValues(pairs, func(a, b any) (bool, error) {
		x, y := a.([2]any)[0], b.([2]any)[0]
		if backwards {
			x, y = y, x
		}
		return s.less(x, y)
	})
	out := &List{Items: make([]any, len(l))}
	for i, p := range pairs {
		out.Items[i] = p.([2]any)[1]
	}
	if err == nil {
		err = s.made(48 * len(l))
	}
	return out, err
}

func sorted(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(a.get(2, "attribute", nil), !truth(a.get(1, "case_sensitive", false)))
	if err != nil {
		return nil, err
	}
	return s.sortBy(l, key, truth(a.get(0, "reverse", false)))
}

func dictSort(s *state, v any, a args) (any, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("want a dict, got a %s", kind(v))
	}
	by := int64(0)
	if a.get(1, "by", "key") == "value" {
		by = 1
	}
	key, err := keyOf(by, !truth(a.get(0, "case_sensitive", false)))
	if err != nil {
		return nil, err
	}
	return s.sortBy(d.pairs().Items, key, truth(a.get(2, "reverse", false)))
}

func extreme(most bool) filterFunc {
	return func(s *state, v any, a args) (any, error) {
		l, err := s.iterate(v)
		if err != nil || len(l) == 0 {
			return undefined{"the extreme of an empty sequence"}, err
		}
		key, err := keyOf(a.get(1, "attribute", nil), !truth(a.get(0, "case_sensitive", false)))
		if err != nil {
			return nil, err
		}
		sortedList, err := s.sortBy(l, key, most)
		if err != nil {
			return nil, err
		}
		return sortedList.(*List).Items[0], nil
	}
}

func unique(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(a.get(1, "attribute", nil), !truth(a.get(0, "case_sensitive", false)))
	if err != nil {
		return nil, err
	}
	seen, out := &Dict{}, &List{}
	for _, x := range l {
		k, err := key(s, x)
		if err != nil {
			return nil, err
		}
		if _, ok := seen.get(k); ok {
			continue
		}
		if err := seen.set(k, nil); err != nil {
			return nil, err
		}
		out.Items = append(out.Items, x)
	}
	return out, s.made(64 * len(out.Items))
}

func groupBy(s *state, v any, a args) (any, error) {
	l, err := s.iterate(v)
	if err != nil {
		return nil, err
	}
	key, err := keyOf(a.get(0, "attribute", nil), !truth(a.get(2, "case_sensitive", false)))
	if err != nil {
		return nil, err
	}
	ordered, err := s.sortBy(l, key, false)
	if err != nil {
		return nil, err
	}
	out := &List{}
	var group *List
	var of any
	for _, x := range ordered.(*List).Items {
		k, err := key(s, x)
		if err != nil {
			return nil, err
		}
		if group == nil || !s.equal(k, of) {
			group, of = &List{}, k
			out.Items = append(out.Items, &List{Items: []any{k, group}, tuple: true})
		}
		group.Items = append(group.Items, x)
	}
	return out, s.made(64 * len(l))
}
