package spec

import (
	"fmt"
	"strings"
)

// PresetScheme begins a reference to a model that is made, not read.
const PresetScheme = "preset://"

// PresetEndOfText is the end-of-text token of the presets; ids below it are bytes.
const PresetEndOfText = 256

// Preset returns the configuration of a model with random weights, by its whole
// reference: preset://tiny or preset://tiny-untied.
func Preset(name string) (Config, error) {
	c := Config{
		Architecture: Llama,
		Vocab:        PresetEndOfText + 1, Width: 64, Layers: 4, Heads: 4, KVHeads: 2, HeadWidth: 16, FeedForward: 172,
		NormEps: 1e-5, RopeTheta: 10000,
		MaxPositions: 2048,
		BOS:          -1, EOS: []int{PresetEndOfText}, Pad: -1,
	}
	switch strings.TrimPrefix(name, PresetScheme) {
	case "tiny":
		c.Tied = true
	case "tiny-untied":
	default:
		return Config{}, fmt.Errorf("model %q: unknown preset: want one of preset://tiny, preset://tiny-untied", name)
	}
	return c, nil
}
