package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Changed lists the keys whose values differ between two configurations: what a
// node that runs with the first does not take over from the second.
func Changed(from, to *Config) (keys []string) {
	differ("", reflect.ValueOf(from).Elem(), reflect.ValueOf(to).Elem(), &keys)
	return keys
}

func differ(path string, a, b reflect.Value, keys *[]string) {
	if reflect.DeepEqual(a.Interface(), b.Interface()) {
		return
	}
	switch {
	case a.Kind() == reflect.Struct && !isText(a):
		for i := range a.NumField() {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("toml"), ",")
			if name == "" || name == "-" {
				continue
			}
			differ(dotted(path, name), a.Field(i), b.Field(i), keys)
		}
	case a.Kind() == reflect.Slice && a.Len() == b.Len() && a.Type().Elem().Kind() == reflect.Struct:
		for i := range a.Len() {
			differ(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i), keys)
		}
	default:
		*keys = append(*keys, path)
	}
}
