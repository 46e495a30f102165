package safetensors

// OpenBytes is Open on a file's content, of at least MinBytes; Close must not be called.
func OpenBytes(b []byte) (*File, error) { return newFile(&mapping{path: "bytes", data: b}) }

// MinBytes is the length of the shortest file that is looked into.
const MinBytes = lengthBytes
