package deferred

import (
	"fmt"
	"reflect"

	"github.com/zerofleet/zerofleet/kernels"
)

var bufferType = reflect.TypeFor[kernels.Buffer]()

// rebind is op on the inner Backend's memory. An Op is plain data, a struct with Buffers among its fields, so that this
// works for every one there is or will be.
func rebind(op kernels.Op) (kernels.Op, error) {
	v := reflect.New(reflect.TypeOf(op)).Elem()
	if v.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%T is not a struct of buffers and numbers", op)
	}
	v.Set(reflect.ValueOf(op))
	for i := range v.NumField() {
		if v.Field(i).Type() != bufferType {
			continue
		}
		b := v.Field(i).Interface().(kernels.Buffer)
		if b.IsZero() {
			continue
		}
		inner, err := kernels.NewBuffer(b.Mem().(*memory).inner, b.Offset(), b.Len(), b.Type())
		if err != nil {
			return nil, err
		}
		v.Field(i).Set(reflect.ValueOf(inner))
	}
	return v.Interface().(kernels.Op), nil
}
