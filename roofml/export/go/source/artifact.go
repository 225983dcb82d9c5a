package roofml

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"reflect"
	"sort"
	"strings"
)

// Schema names the artifacts that this package reads.
const Schema = "roofml-go/1"

// Folder is the environment variable with a folder of artifacts to read in place of those that were built in.
const Folder = "ROOFML_ARTIFACTS"

//go:embed artifacts/*.json
var embedded embed.FS

// Model is one calibration. It never changes.
type Model struct{ file document }

type document struct {
	Schema             string            `json:"schema"`
	FormulaSha256      string            `json:"formula_sha256"`
	Name               string            `json:"name"`
	Model              string            `json:"model"`
	HfRepo             string            `json:"hf_repo"`
	Gpu                string            `json:"gpu"`
	TensorParallel     int               `json:"tensor_parallel"`
	Engine             string            `json:"engine"`
	Server             *string           `json:"server"`
	CoefficientsSha256 string            `json:"coefficients_sha256"`
	ConfigSha256       string            `json:"config_sha256"`
	Roofml             string            `json:"roofml"`
	Doubts             []string          `json:"doubts"`
	Valid              validRange        `json:"valid"`
	Step               StepParameters    `json:"step"`
	Request            RequestParameters `json:"request"`
	Tables             ComponentTables   `json:"tables"`
}

// validRange has the smallest and the largest of what the fit has seen in a step.
type validRange struct {
	Batch     [2]float64 `json:"batch"`
	Context   [2]float64 `json:"context"`
	NewTokens [2]float64 `json:"new_tokens"`
}

// Name is the calibration's name: model, GPU and tensor parallel size.
func (m *Model) Name() string { return m.file.Name }

// ModelName is the model that was calibrated.
func (m *Model) ModelName() string { return m.file.Model }

// GPU is the GPU it was calibrated on.
func (m *Model) GPU() string { return m.file.Gpu }

// TensorParallel is the number of GPUs.
func (m *Model) TensorParallel() int { return m.file.TensorParallel }

// Provenance says in a line where the numbers come from.
func (m *Model) Provenance() string {
	said := fmt.Sprintf("%s: %s on %s with TP %d, %s, coefficients %.12s, roofml %s", m.file.Name, m.file.Model, m.file.Gpu, m.file.TensorParallel, m.file.Engine, m.file.CoefficientsSha256, m.file.Roofml)
	if m.file.Server != nil {
		said += fmt.Sprintf(", at the pace of the server of %q", *m.file.Server)
	}
	return said
}

// Doubts are what whoever uses the numbers has to know: a fit that does not describe its runs.
func (m *Model) Doubts() []string { return append([]string(nil), m.file.Doubts...) }

// Is says whether the calibration is of a model (its name or its Hub repository, with or without the organisation, in
// any case), a GPU and a tensor parallel size.
func (m *Model) Is(model, gpu string, tensorParallel int) bool {
	model = strings.ToLower(model)
	named := false
	for _, name := range []string{m.file.Model, m.file.HfRepo} {
		name = strings.ToLower(name)
		named = named || model == name || path.Base(model) == path.Base(name)
	}
	return named && strings.EqualFold(gpu, m.file.Gpu) && tensorParallel == m.file.TensorParallel
}

// artifacts are those that were built in or, where Folder is set, those there.
func artifacts() (fs.FS, string, error) {
	folder, set := os.LookupEnv(Folder)
	if !set {
		files, err := fs.Sub(embedded, "artifacts")
		return files, "the artifacts of this build", err
	}
	if status, err := os.Stat(folder); err != nil || !status.IsDir() {
		return nil, folder, fmt.Errorf("roofml: %s=%s: no such folder", Folder, folder)
	}
	return os.DirFS(folder), folder, nil
}

// Names lists the calibrations that are there, built in or in Folder.
func Names() ([]string, error) {
	files, _, err := artifacts()
	if err != nil {
		return nil, err
	}
	return names(files)
}

func names(files fs.FS) ([]string, error) {
	found, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	for i, name := range found {
		found[i] = strings.TrimSuffix(name, ".json")
	}
	sort.Strings(found)
	return found, nil
}

// Load reads the calibration of this name, built in or in Folder.
func Load(name string) (*Model, error) {
	files, place, err := artifacts()
	if err != nil {
		return nil, err
	}
	raw, err := fs.ReadFile(files, name+".json")
	if err != nil {
		there, _ := names(files)
		return nil, fmt.Errorf("roofml: no artifact %q in %s, which holds %s", name, place, strings.Join(there, ", "))
	}
	return Read(bytes.NewReader(raw), name+".json")
}

// Find reads the calibration of a model, a GPU and a tensor parallel size, built in or in Folder. Every artifact there
// must be readable, and exactly one of them of this deployment.
func Find(model, gpu string, tensorParallel int) (*Model, error) {
	files, place, err := artifacts()
	if err != nil {
		return nil, err
	}
	there, err := names(files)
	if err != nil {
		return nil, err
	}
	var found *Model
	for _, name := range there {
		read, err := Load(name)
		if err != nil {
			return nil, err
		}
		if !read.Is(model, gpu, tensorParallel) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("roofml: %s and %s in %s are both of %s on %s with TP %d", found.Name(), name, place, model, gpu, tensorParallel)
		}
		found = read
	}
	if found == nil {
		return nil, fmt.Errorf("roofml: no calibration of %s on %s with TP %d in %s, which holds %s: export one with `roofml export go`", model, gpu, tensorParallel, place, strings.Join(there, ", "))
	}
	return found, nil
}

// Open reads the artifact in a file.
func Open(file string) (*Model, error) {
	handle, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("roofml: %w", err)
	}
	defer handle.Close()
	return Read(handle, file)
}

// Read reads an artifact; `source` names it in errors. One of another schema, for another formula or with a field more
// or less is an error.
func Read(from io.Reader, source string) (*Model, error) {
	raw, err := io.ReadAll(io.LimitReader(from, mostBytes+1))
	if err != nil {
		return nil, fmt.Errorf("roofml: %s: %w", source, err)
	}
	if len(raw) > mostBytes {
		return nil, fmt.Errorf("roofml: %s: more than %d bytes, expected an artifact", source, mostBytes)
	}
	var kind struct {
		Schema        string `json:"schema"`
		FormulaSha256 string `json:"formula_sha256"`
		Roofml        string `json:"roofml"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, fmt.Errorf("roofml: %s: expected an artifact: %w", source, err)
	}
	if kind.Schema != Schema {
		return nil, fmt.Errorf("roofml: %s: schema %q, expected %q: a foreign file, or one of a newer roofml", source, kind.Schema, Schema)
	}
	if kind.FormulaSha256 != formulaSha256 {
		return nil, fmt.Errorf("roofml: %s: made by roofml %s for another formula (%.12s) than this package has (%.12s): export both again", source, kind.Roofml, kind.FormulaSha256, formulaSha256)
	}
	var read Model
	if err := strict(raw, reflect.ValueOf(&read.file).Elem(), ""); err != nil {
		return nil, fmt.Errorf("roofml: %s: %w", source, err)
	}
	if err := check(&read.file.Tables); err != nil {
		return nil, fmt.Errorf("roofml: %s: %w", source, err)
	}
	return &read, nil
}

const (
	mostBytes  = 64 << 20
	mostPlaces = 1 << 20
)

// strict reads a JSON object into a struct, all of whose fields must be there, and no others.
func strict(raw []byte, into reflect.Value, place string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return fmt.Errorf("%sexpected an object", place)
	}
	kind := into.Type()
	for i := 0; i < kind.NumField(); i++ {
		name := kind.Field(i).Tag.Get("json")
		value, there := fields[name]
		if !there {
			return fmt.Errorf("%s%s: missing", place, name)
		}
		delete(fields, name)
		field := into.Field(i)
		if field.Kind() == reflect.Struct {
			if err := strict(value, field, place+name+"."); err != nil {
				return err
			}
			continue
		}
		optional := field.Kind() == reflect.Slice || field.Kind() == reflect.Pointer
		if string(value) == "null" && !optional {
			return fmt.Errorf("%s%s: null", place, name)
		}
		if err := json.Unmarshal(value, field.Addr().Interface()); err != nil {
			return fmt.Errorf("%s%s: %w", place, name, err)
		}
	}
	for name := range fields {
		return fmt.Errorf("%s%q: unknown", place, name)
	}
	return nil
}

// check refuses tables that no step's time could be computed with.
func check(tables *ComponentTables) error {
	if len(tables.Reaches) != len(tables.Near) || len(tables.Reaches) > mostReaches {
		return fmt.Errorf("tables.reaches: %d, and %d of near: expected as many, at most %d", len(tables.Reaches), len(tables.Near), mostReaches)
	}
	for _, reach := range tables.Reaches {
		if reach[0] < 0 || reach[1] < 0 || reach[2] < 1 || reach[3] < 0 {
			return errors.New("tables.reaches: expected a compression of at least 1 and no negative number")
		}
	}
	if tables.Verified < 1 || tables.Layers < 1 {
		return errors.New("tables.verified, tables.layers: expected at least 1")
	}
	for name, required := range map[string]table{"gemm": tables.Gemm, "weights": tables.Weights, "attention_items": tables.AttentionItems} {
		if len(required) == 0 {
			return fmt.Errorf("tables.%s: missing", name)
		}
	}
	return nil
}

// A table has a number for every whole number of tokens or requests.
type table []float64

// at is the number at a place. Past its end a table goes on with its last slope, as what it stands for does there.
func (t table) at(place int64) float64 {
	if place < int64(len(t)) {
		return t[place]
	}
	last := len(t) - 1
	return t[last] + float64(place-int64(last))*(t[last]-t[last-1])
}

// UnmarshalJSON reads points with straight lines between them.
func (t *table) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*t = nil
		return nil
	}
	var points struct {
		Places []int     `json:"places"`
		Values []float64 `json:"values"`
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&points); err != nil {
		return err
	}
	places, values := points.Places, points.Values
	if len(places) < 2 || len(places) != len(values) || places[0] != 0 || places[len(places)-1] > mostPlaces {
		return fmt.Errorf("%d places and %d values: expected as many of both, two or more, from 0 to at most %d", len(places), len(values), mostPlaces)
	}
	for i, place := range places[1:] {
		if place <= places[i] {
			return fmt.Errorf("places %d, %d: expected an ascending list", places[i], place)
		}
	}
	made := make(table, places[len(places)-1]+1)
	for i := 0; i+1 < len(places); i++ {
		start, end := places[i], places[i+1]
		for place := start; place <= end; place++ {
			made[place] = values[i] + float64(place-start)/float64(end-start)*(values[i+1]-values[i])
		}
		made[end] = values[i+1]
	}
	for _, value := range values {
		if math.IsNaN(value) || value < 0 {
			return fmt.Errorf("%g: expected no negative number", value)
		}
	}
	*t = made
	return nil
}
