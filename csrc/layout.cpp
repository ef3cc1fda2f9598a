#include "layout.h"

#include <stdexcept>
#include <type_traits>

#include "codes.h"
#include "gate.h"
#include "random.h"
#include "rules.h"
#include "table.h"
#include "tangents.h"
#include "tuner/tuner.h"
#include "watch.h"

namespace py = pybind11;

namespace yfk {
namespace {

// The fields of a record, those of what it extends first.
template <class Record, class = void>
struct Names {
  static void add(py::list* names) {
    for (const char* name : Record::kNames) names->append(name);
  }
};
template <class Record>
struct Names<Record, std::void_t<typename Record::Base>> {
  static void add(py::list* names) {
    Names<typename Record::Base>::add(names);
    for (const char* name : Record::kNames) names->append(name);
  }
};

template <class Record>
py::list names_of() {
  py::list names;
  Names<Record>::add(&names);
  if (py::len(names) * sizeof(double) != sizeof(Record)) throw std::logic_error("a nameless field");
  return names;
}

py::list row() {
  py::list names;
#define YFK_NAME_OF_WORD(name) names.append(#name);
  YFK_ROW(YFK_NAME_OF_WORD)
#undef YFK_NAME_OF_WORD
#define YFK_NAME_OF_COLUMN(constant, name) names.append(#name);
  YFK_COLUMNS(YFK_NAME_OF_COLUMN)
#undef YFK_NAME_OF_COLUMN
  while (py::len(names) < sizeof(TensorRow) / sizeof(int64_t)) names.append("");
  return names;
}

py::list options() {
  py::list names;
#define YFK_NAME_OF_OPTION(Type, name) names.append(#name);
  YFK_TUNER_OPTIONS(YFK_NAME_OF_OPTION)
#undef YFK_NAME_OF_OPTION
  return names;
}

template <class Rule>
py::dict rule_of(const char* name) {
  py::dict rule;
  rule["name"] = name;
  rule["fields"] = names_of<typename Rule::Coefficients>();
  rule["states"] = Rule::kStates;
  rule["move_sums"] = Rule::kMoveSums;
  rule["stored"] = int(Rule::kStored);
  return rule;
}

py::list rules() {
  py::list all;
#define YFK_DESCRIBE(constant, name, passes, ...) all.append(rule_of<__VA_ARGS__>(#name));
  YFK_RULES(YFK_DESCRIBE)
#undef YFK_DESCRIBE
  return all;
}

template <class Family>
py::dict family_of(const char* name) {
  py::dict family;
  family["name"] = name;
  family["fields"] = names_of<typename Family::Coefficients>();
  family["slots"] = Family::kSlots;
  family["tangents"] = Family::kTangents;
  return family;
}

py::list families() {
  py::list all;
#define YFK_DESCRIBE(constant, name, ...) all.append(family_of<__VA_ARGS__>(#name));
  YFK_FAMILIES(YFK_DESCRIBE)
#undef YFK_DESCRIBE
  return all;
}

py::list projections() {
  py::list all;
#define YFK_DESCRIBE(constant, name, ...)                             \
  all.append(py::dict(py::arg("name") = #name,                        \
                      py::arg("columns") = int(__VA_ARGS__::kColumns)));
  YFK_PROJECTIONS(YFK_DESCRIBE)
#undef YFK_DESCRIBE
  return all;
}

py::dict numbers() {
  py::dict all;
  all["TILE"] = kTile;
  all["COLUMNS"] = kColumns;
  all["STATE_FORMAT"] = kStateFormat;
  all["EPSILON"] = kEpsilon;
  all["TINY"] = kTiny;
  all["LARGEST_CUBIC"] = kLargestCubic;
  all["ENVELOPE_GUARD"] = kEnvelopeGuard;
  all["WIDEST_RANGE"] = kWidestRange;
  all["FIRST_RADIUS"] = kFirstRadius;
  all["RECENT"] = kRecent;
  all["SPIKE"] = kSpike;
  all["SPIKE_STEPS"] = kSpikeSteps;
  all["LARGEST_MOVE"] = kLargestMove;
  all["SQUARE_DECAY"] = kSquareDecay;
  all["LEAST_MOMENTUM"] = kLeastMomentum;
  all["FIRST_TRAVEL"] = kFirstTravel;
  all["STRETCH"] = kStretch;
  all["UNIT"] = kUnit;
  all["METRIC_FLOOR"] = double(kMetricFloor);
  all["MIX_1"] = kMix1;
  all["MIX_2"] = kMix2;
  all["WEYL"] = kWeyl;
  all["RELATIVE_SHIFT"] = uint32_t(RelativeCodes::kShift);
  all["RELATIVE_BASE"] = uint32_t(RelativeCodes::kBase);
  all["ABSOLUTE_SHIFT"] = uint32_t(AbsoluteCodes::kShift);
  all["ABSOLUTE_BASE"] = uint32_t(AbsoluteCodes::kBase);
  all["MOMENT_UNIT"] = uint32_t(kMomentUnit);
  all["LARGEST_FLOAT8"] = double(kLargestFloat8);
  return all;
}

}  // namespace

py::dict layout() {
  py::dict all;
  all["row"] = row();
  all["slot"] = names_of<Slot>();
  all["state"] = names_of<TunerState>();
  all["group"] = names_of<GroupHyper>();
  all["gate_state"] = names_of<GateState>();
  all["settings"] = names_of<Settings>();
  all["options"] = options();
  all["rules"] = rules();
  all["families"] = families();
  all["projections"] = projections();
  all["projection"] = names_of<ProjectionCoefficients>();
  all["projected"] = names_of<Projected>();
  all["numbers"] = numbers();
  all["seen"] =
      py::dict(py::arg("SAME") = int(kSame), py::arg("MOVED") = int(kMoved),
               py::arg("COPY") = int(kCopy), py::arg("PLAN") = int(kPlan),
               py::arg("NO_GRADIENT") = int(kNoGradient), py::arg("UPDATED") = int(kUpdated));
  all["places"] =
      py::dict(py::arg("TABLE") = int(Place::kTable), py::arg("NOWHERE") = int(Place::kNowhere),
               py::arg("EMPTY") = int(Place::kEmpty), py::arg("PLAIN") = int(Place::kPlain));
  all["measures"] =
      py::dict(py::arg("NORM") = int(Measure::kNorm), py::arg("AVERAGE") = int(Measure::kAverage),
               py::arg("SKETCH") = int(Measure::kSketch));
  all["corrections"] = py::dict(py::arg("NONE") = int(BiasCorrection::kNone),
                                py::arg("MOMENTS") = int(BiasCorrection::kMoments),
                                py::arg("LR") = int(BiasCorrection::kLr));
  return all;
}

}  // namespace yfk
