# `cmake --install` gives the program, the headers, one static library per room, and find_package(quire) with the
# targets quire::<room>. tests/consumer/ builds against it.
include(CMakePackageConfigHelpers)

set(QUIRE_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/quire)
install(EXPORT quireTargets NAMESPACE quire:: DESTINATION ${QUIRE_PACKAGE_DIR})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/quireConfig.cmake.in
  ${PROJECT_BINARY_DIR}/quireConfig.cmake INSTALL_DESTINATION ${QUIRE_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/quireConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/quireConfig.cmake ${PROJECT_BINARY_DIR}/quireConfigVersion.cmake
  DESTINATION ${QUIRE_PACKAGE_DIR})
if(TARGET quire)
  install(TARGETS quire RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
