package job

// Parts that this version does not have. A field or value of one is refused when it is written, even at its default,
// so that no job is accepted and then not done as it says. A part that arrives deletes its lines here.
//
// The names are those of the document that later versions read, which is why they are known.

var absentFields = []string{
	"method.lora",
	"method.trainable",
	"method.base_weights",
	"offload",
}

// anyOther stands for every value that is not in the field's enum.
const anyOther = "*"

var absentValues = map[string][]string{
	"method.type":                {"lora", "prompt", "head", "reward", "dpo", "ppo"},
	"train.precision":            {"f16"},
	"output.formats":             {"gguf"},
	"recovery.replica_tier":      {"nvme"},
	"train.leaf":                 {anyOther},
	"train.optimizer.state_bits": {anyOther},
}

// absentSchemes are the places that a path cannot name yet.
var absentSchemes = []string{"hf://", "s3://", "gs://", "azblob://", "http://", "https://"}
