package admin

import (
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// noNulls makes empty lists and maps of a body [] and {}, not null, so that
// scripts can walk them without asking. Lists that are left out where they are not named (omitzero) stay so.
func noNulls(_ huma.Context, _ string, v any) (any, error) {
	if _, ok := v.(*Error); ok || v == nil {
		return v, nil
	}
	whole := reflect.New(reflect.TypeOf(v)).Elem()
	whole.Set(reflect.ValueOf(v))
	fill(whole)
	return whole.Interface(), nil
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Field(i)
			absent := field.Kind() == reflect.Slice && field.IsNil() &&
				strings.Contains(v.Type().Field(i).Tag.Get("json"), ",omitzero")
			if field.CanSet() && !absent {
				fill(field)
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		if !scalar(v.Type().Elem().Kind()) {
			for i := range v.Len() {
				fill(v.Index(i))
			}
		}
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	}
}

func scalar(k reflect.Kind) bool { return k <= reflect.Complex128 || k == reflect.String }
