// Records of doubles whose fields have names at run time, too: one list gives both.
//
//   #define YFK_POINT(field) field(x) /* to the right */ field(y) /* upwards */
//   struct Point { YFK_RECORD(YFK_POINT) };
//
// Python lays out the same records by name (yfkernels/ops/constants.py, rules.py) and compares.
#pragma once

#define YFK_MEMBER(name) double name;
#define YFK_NAME(name) #name,

#define YFK_RECORD(LIST) \
  LIST(YFK_MEMBER)       \
  static constexpr const char* kNames[] = {LIST(YFK_NAME)};
