package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Variable returns the name of the environment variable that overrides a key:
// RELAY_NODE_ID for node.id. Keys of listeners, which are lists of tables,
// have none.
func Variable(key string) string {
	return "RELAY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// override sets keys from the environment. A list is written with commas; an
// empty variable counts as unset.
func override(r *report, path string, into reflect.Value, lookup func(string) (string, bool)) {
	for name, i := range fields(into.Type()) {
		key, field := dotted(path, name), into.Field(i)
		if field.Kind() == reflect.Struct && !isText(field) {
			override(r, key, field, lookup)
			continue
		}
		text, ok := lookup(Variable(key))
		if !ok || text == "" || slices.Contains([]string{"smtp", "pop3", "pop2", "milter", "folder", "dnsbl"}, key) {
			continue
		}
		r.env[key] = Variable(key)
		value, err := fromText(text, field)
		if err != nil {
			r.add(key, "%v", err)
			continue
		}
		decodeValue(r, key, value, field)
	}
}

// fromText makes the value that a file would have held.
func fromText(text string, field reflect.Value) (any, error) {
	switch {
	case field.Kind() == reflect.Pointer:
		return fromText(text, reflect.New(field.Type().Elem()).Elem())
	case field.Kind() == reflect.Slice:
		var list []any
		for _, one := range strings.Split(text, ",") {
			list = append(list, strings.TrimSpace(one))
		}
		return list, nil
	case isText(field) || field.Kind() == reflect.String:
		return text, nil
	case field.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not true or false", text)
		}
		return b, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}
