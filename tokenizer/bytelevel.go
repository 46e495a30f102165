package tokenizer

// Byte-level vocabularies spell each byte as one printable character: the bytes
// that are printable in Latin-1 as themselves, the others as the characters from
// U+0100 on, in order. A space is Ġ.
// Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
var (
	byteRune [256]rune
	runeByte = map[rune]byte{}
)

func init() {
	next := rune(0x100)
	for b := range byteRune {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			byteRune[b] = rune(b)
		} else {
			byteRune[b] = next
			next++
		}
		runeByte[byteRune[b]] = byte(b)
	}
}

// unspell is the bytes that a token stands for; false when a character of it
// stands for no byte.
func unspell(token string) (string, bool) {
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := runeByte[r]
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}
