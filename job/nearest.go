package job

import (
	"reflect"
	"slices"
	"strings"
)

// nearest is the candidate that a person most likely meant: closest in edits, at most a third of its length away. "" if none is.
func nearest(word string, candidates []string) string {
	best, bestEdits := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if e := edits(strings.ToLower(word), c); e < bestEdits {
			best, bestEdits = c, e
		}
	}
	return best
}

// edits is the Levenshtein distance between a and b in bytes; words above 64 bytes are never near.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// knownAs finds the one place in the document where a field of this name belongs; "" if there is none or several.
func knownAs(name string) string {
	var found []string
	walk(reflect.TypeFor[Job](), "", func(path string, s fieldSpec, _ reflect.Type) {
		if s.name == name && !strings.HasPrefix(path, "resolved.") {
			found = append(found, path)
		}
	})
	for _, absent := range absentFields {
		if strings.HasSuffix(absent, "."+name) {
			found = append(found, absent)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// walk visits every field of the document in order, a section before its fields; elements of a list have the path a.b[].
func walk(t reflect.Type, path string, visit func(path string, s fieldSpec, t reflect.Type)) {
	for _, s := range fieldsOf(t) {
		ft, sub := t.Field(s.index).Type, join(path, s.name)
		visit(sub, s, ft)
		if slices.Contains([]reflect.Kind{reflect.Slice, reflect.Pointer}, ft.Kind()) && ft.Elem().Kind() == reflect.Struct {
			if ft.Kind() == reflect.Slice {
				sub += "[]"
			}
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			walk(ft, sub, visit)
		}
	}
}
