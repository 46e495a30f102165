package gguf

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Metadata is the file's map of typed values, read through the methods below. Their errors
// name the key, and wrap ErrNoKey when it is absent.
type Metadata struct {
	values map[string]any // one of the types that decoder.value makes
}

// Keys lists the keys in ascending order.
func (m Metadata) Keys() []string { return slices.Sorted(maps.Keys(m.values)) }

// Has tells whether a key is there.
func (m Metadata) Has(key string) bool {
	_, ok := m.values[key]
	return ok
}

// Int reads a whole number of any width.
func (m Metadata) Int(key string) (int, error) {
	v, err := m.get(key)
	if err != nil {
		return 0, err
	}
	n, ok := toInt(v)
	if !ok {
		return 0, wrongType(key, v, "a whole number")
	}
	return n, nil
}

// Float reads an f32 or f64.
func (m Metadata) Float(key string) (float64, error) {
	v, err := m.get(key)
	if err != nil {
		return 0, err
	}
	switch v := v.(type) {
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	}
	return 0, wrongType(key, v, "a float")
}

// Bool reads a truth value.
func (m Metadata) Bool(key string) (bool, error) { return as[bool](m, key, "a bool") }

// Text reads a string. Its bytes need not be UTF-8.
func (m Metadata) Text(key string) (string, error) { return as[string](m, key, "a string") }

// Texts reads an array of strings; the caller must not change it.
func (m Metadata) Texts(key string) ([]string, error) {
	return as[[]string](m, key, "an array of strings")
}

// Ints reads an array of whole numbers of any width.
func (m Metadata) Ints(key string) ([]int, error) {
	v, err := m.get(key)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case []uint8:
		return widen(v), nil
	case []int8:
		return widen(v), nil
	case []uint16:
		return widen(v), nil
	case []int16:
		return widen(v), nil
	case []uint32:
		return widen(v), nil
	case []int32:
		return widen(v), nil
	case []int64:
		return widen(v), nil
	case []uint64:
		if slices.ContainsFunc(v, func(n uint64) bool { return n > math.MaxInt64 }) {
			return nil, fmt.Errorf("metadata %s: a number above 2^63-1", key)
		}
		return widen(v), nil
	}
	return nil, wrongType(key, v, "an array of whole numbers")
}

// Floats reads an array of f32; the caller must not change it.
func (m Metadata) Floats(key string) ([]float32, error) {
	return as[[]float32](m, key, "an array of f32")
}

func (m Metadata) get(key string) (any, error) {
	v, ok := m.values[key]
	if !ok {
		return nil, fmt.Errorf("metadata %s: %w", key, ErrNoKey)
	}
	return v, nil
}

func as[T any](m Metadata, key, want string) (T, error) {
	v, err := m.get(key)
	if err != nil {
		return *new(T), err
	}
	t, ok := v.(T)
	if !ok {
		return t, wrongType(key, v, want)
	}
	return t, nil
}

func wrongType(key string, v any, want string) error {
	return fmt.Errorf("metadata %s: got %T, want %s", key, v, want)
}

func toInt(v any) (int, bool) {
	switch v := v.(type) {
	case uint8:
		return int(v), true
	case int8:
		return int(v), true
	case uint16:
		return int(v), true
	case int16:
		return int(v), true
	case uint32:
		return int(v), true
	case int32:
		return int(v), true
	case int64:
		return int(v), true
	case uint64:
		return int(v), v <= math.MaxInt64
	}
	return 0, false
}

func widen[T uint8 | int8 | uint16 | int16 | uint32 | int32 | int64 | uint64](v []T) []int {
	out := make([]int, len(v))
	for i, n := range v {
		out[i] = int(n)
	}
	return out
}
